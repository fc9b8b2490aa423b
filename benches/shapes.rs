//! Dimensions of a Llama: those of a model that people know, or any others. `shapes.json` is what `torch_step.py` reads too.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

/// A shape by name, and what is to differ from it.
#[derive(Args, Clone, Debug)]
pub struct Dims {
    /// A model of benches/shapes.json.
    #[arg(long, default_value = "smollm2-135m", value_parser = known)]
    pub shape: String,
    #[arg(long)]
    hidden: Option<usize>,
    #[arg(long)]
    layers: Option<usize>,
    #[arg(long)]
    heads: Option<usize>,
    #[arg(long)]
    kv_heads: Option<usize>,
    #[arg(long)]
    ffn: Option<usize>,
    #[arg(long)]
    vocab: Option<usize>,
    /// Experts in the place of each MLP, `--ffn` wide (Qwen 3 with experts); 0 is none
    #[arg(long, default_value_t = 0)]
    pub experts: usize,
    /// Experts that compute a token
    #[arg(long, default_value_t = 2)]
    per_token: usize,
    /// Key heads, and as many value heads, 128 wide, of linear attention in three of four layers (Qwen 3.5); 0 is none
    #[arg(long, default_value_t = 0)]
    linear: usize,
}

type Shapes = BTreeMap<String, BTreeMap<String, Value>>;

fn shapes() -> Shapes {
    serde_json::from_str(include_str!("shapes.json")).expect("a table of shapes")
}

fn known(name: &str) -> Result<String, String> {
    let shapes = shapes();
    match shapes.contains_key(name) {
        true => Ok(name.into()),
        false => Err(format!("one of {}", shapes.into_keys().collect::<Vec<_>>().join(", "))),
    }
}

impl Dims {
    /// A shape as it is in the table.
    pub fn named(shape: &str) -> Self {
        Self {
            shape: shape.into(),
            hidden: None,
            layers: None,
            heads: None,
            kv_heads: None,
            ffn: None,
            vocab: None,
            experts: 0,
            per_token: 2,
            linear: 0,
        }
    }

    fn own(&self, key: &str) -> Value {
        shapes()[&self.shape][key].clone()
    }

    fn number(&self, typed: Option<usize>, key: &str) -> usize {
        typed.unwrap_or_else(|| self.own(key).as_u64().expect("a dimension") as usize)
    }

    pub fn hidden(&self) -> usize {
        self.number(self.hidden, "hidden")
    }

    pub fn layers(&self) -> usize {
        self.number(self.layers, "layers")
    }

    pub fn heads(&self) -> usize {
        self.number(self.heads, "heads")
    }

    pub fn kv_heads(&self) -> usize {
        self.number(self.kv_heads, "kv_heads")
    }

    pub fn ffn(&self) -> usize {
        self.number(self.ffn, "ffn")
    }

    pub fn vocab(&self) -> usize {
        self.number(self.vocab, "vocab")
    }

    /// The `config.json` of such a Llama for texts of `seq` tokens.
    pub fn config(&self, seq: usize) -> Value {
        let family = match (self.experts, self.linear) {
            (0, 0) => "llama",
            (0, _) => "qwen3_5_text",
            _ => "qwen3_moe",
        };
        json!({
            "model_type": family, "linear_num_key_heads": self.linear, "linear_num_value_heads": self.linear,
            "head_dim": self.hidden() / self.heads(), "num_experts": self.experts, "num_experts_per_tok": self.per_token,
            "moe_intermediate_size": self.ffn(), "norm_topk_prob": true, "vocab_size": self.vocab(), "hidden_size": self.hidden(),
            "intermediate_size": self.ffn(), "num_hidden_layers": self.layers(), "num_attention_heads": self.heads(),
            "num_key_value_heads": self.kv_heads(), "max_position_embeddings": seq.max(2048),
            "tie_word_embeddings": self.own("untied") == json!(false), "eos_token_id": 1,
        })
    }

    /// Numbers of the matrices that a token is multiplied with.
    pub fn product_weights(&self) -> usize {
        let (hidden, head_dim) = (self.hidden(), self.hidden() / self.heads());
        let attention = 2 * hidden * hidden + 2 * hidden * self.kv_heads() * head_dim;
        let used = if self.experts > 0 { self.per_token } else { 1 };
        // q, k, v, z and the output, against queries with their gate.
        let linear = if self.linear > 0 {
            5 * 128 * self.linear * hidden
        } else {
            attention
        };
        let attention = if self.linear > 0 {
            attention + hidden * hidden
        } else {
            attention
        };
        let mixers = (3 * linear + attention) * self.layers() / 4;
        mixers + self.layers() * 3 * hidden * self.ffn() * used + self.vocab() * hidden
    }
}
