use std::path::Path;

use burn::tensor::DType;
use ft_peft::AttentionShape;
use ft_quant::Scheme;
use serde_json::{Map, Value};

use crate::block::{Block, DeltaConfig};
use crate::error::{Error, Result};
use crate::families;
use crate::families::encoder::EncoderConfig;
use crate::gguf;
use crate::heads::HeadConfig;
pub(crate) use crate::keys::Keys;
use crate::keys::LARGEST;
use crate::quantized::{self, MXFP4};
use crate::rope::Rope;
use crate::text_tower;

/// A model's architecture as data, read from a Hugging Face `config.json` of transformers 4 or 5.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`: the family.
    pub model_type: String,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads (grouped-query attention where fewer than query heads).
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the variance in normalizations.
    pub norm_eps: f64,
    /// Rotary embedding; `None` means learned positions.
    pub rope: Option<Rope>,
    /// Sliding window of each layer, in tokens.
    pub windows: Vec<Option<usize>>,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the attention output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP projections have a bias.
    pub mlp_bias: bool,
    /// How a block computes, beside these.
    pub block: Block,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// First token of a text, where there is one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// What an encoder has that a decoder has not.
    pub encoder: Option<EncoderConfig>,
    /// What stands in the place of the output head.
    pub head: Option<HeadConfig>,
    /// Whether an encoder has the head that fills in masked tokens.
    pub(crate) masked: bool,
    /// The file's own keys, kept for writing back.
    pub(crate) raw: Map<String, Value>,
}

impl ModelConfig {
    /// Sizes of the attention.
    pub fn attention(&self) -> AttentionShape {
        AttentionShape {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }

    /// Whether some layer has a state that every column changes, in the place of keys and values that stay.
    pub fn recurs(&self) -> bool {
        self.block
            .delta
            .as_ref()
            .is_some_and(|delta| delta.layers.contains(&true))
    }

    /// What an encoder has; only of one.
    pub(crate) fn encoder(&self) -> &EncoderConfig {
        self.encoder.as_ref().expect("the configuration of an encoder")
    }

    /// Reads `dir/config.json`, or the metadata of `dir` itself, if it is a GGUF file.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        if ft_gguf::is_gguf(dir) {
            let keys = gguf::keys(&gguf::open(dir)?)?;
            return Self::from_keys(&Keys::of(keys, dir.into()));
        }
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        Self::from_json(&text, &path)
    }

    /// Parses the text of a `config.json`; `path` is named in errors.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::Format {
            path: path.into(),
            why: format!("not valid JSON: {e}"),
        })?;
        let Value::Object(raw) = value else {
            return Err(Error::Format {
                path: path.into(),
                why: "a JSON object is needed".into(),
            });
        };
        let keys = Keys {
            raw: text_tower::keys(raw),
            path: path.into(),
        };
        quantized::readable(&keys)?;
        Self::from_keys(&keys)
    }

    fn from_keys(keys: &Keys) -> Result<Self> {
        let config = families::parse(keys)?;
        config.check(keys)?;
        Ok(config)
    }

    /// The architecture alone, without the spelling of the file it was read from: for comparing configurations.
    pub fn without_source(&self) -> Self {
        Self {
            raw: Map::new(),
            ..self.clone()
        }
    }

    /// Whether the checkpoint's projections are stored in codes that stay codes; MXFP4 is unpacked.
    pub fn is_quantized(&self) -> bool {
        quantized::method(&self.raw).is_some_and(|method| method != MXFP4)
    }

    /// The type of the weights, where the file states one (`dtype`, before transformers 5 `torch_dtype`).
    pub fn stated_dtype(&self) -> Option<DType> {
        let stated = ["dtype", "torch_dtype"].into_iter().find_map(|key| self.raw.get(key));
        match stated?.as_str()? {
            "bfloat16" => Some(DType::BF16),
            "float16" => Some(DType::F16),
            "float32" => Some(DType::F32),
            _ => None,
        }
    }

    /// `initializer_range`: standard deviation of the matrices of a new model, 0.02 as in GPT-2 and Llama where the file says
    /// nothing (or nothing finite).
    pub fn initializer_range(&self) -> f32 {
        let typed = self.raw.get("initializer_range").and_then(Value::as_f64);
        typed
            .map(|std| std as f32)
            .filter(|std| std.is_finite())
            .unwrap_or(0.02)
    }

    /// The `config.json` to write beside weights of type `dtype` (`"bfloat16"`), the head tied or not, the projections
    /// quantized or not.
    pub fn to_json(&self, dtype: &str, tied: bool, scheme: Option<Scheme>) -> String {
        let mut raw = self.raw.clone();
        let key = if raw.contains_key("torch_dtype") {
            "torch_dtype"
        } else {
            "dtype"
        };
        raw.insert(key.into(), dtype.into());
        if self.head.is_none() {
            raw.insert("tie_word_embeddings".into(), tied.into());
        }
        raw.remove("quantization_config");
        if let Some(scheme) = scheme {
            raw.insert("quantization_config".into(), quantized::config(scheme, dtype));
        }
        serde_json::to_string_pretty(&Value::Object(raw)).expect("a JSON map serializes")
    }

    fn check(&self, keys: &Keys) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, LARGEST),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, LARGEST),
        ];
        for (key, size, largest) in sizes {
            if size == 0 {
                return Err(keys.error(key, "must be a positive number, got 0".into()));
            }
            keys.within(key, size, largest)?;
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let why = format!(
                "{} query heads cannot be shared evenly by them",
                self.num_attention_heads
            );
            return Err(keys.error("num_key_value_heads", why));
        }
        if let Some(experts) = &self.block.experts {
            let sizes = [
                ("num_experts", experts.count),
                ("num_experts_per_tok", experts.per_token),
                ("moe_intermediate_size", experts.inner),
                ("shared_expert_intermediate_size", experts.shared.unwrap_or(1)),
            ];
            for (key, size) in sizes {
                if size == 0 {
                    return Err(keys.error(key, "must be a positive number, got 0".into()));
                }
                keys.within(key, size, 1 << 20)?;
            }
            keys.within("num_experts", experts.count, 1 << 12)?;
            if experts.per_token > experts.count {
                let why = format!("{} of {} experts cannot be chosen", experts.per_token, experts.count);
                return Err(keys.error("num_experts_per_tok", why));
            }
        }
        if let Some(DeltaConfig { heads, taps, .. }) = &self.block.delta {
            let sizes = [
                ("linear_num_key_heads", heads.key_heads),
                ("linear_num_value_heads", heads.value_heads),
                ("linear_key_head_dim", heads.key_dim),
                ("linear_value_head_dim", heads.value_dim),
                ("linear_conv_kernel_dim", *taps),
            ];
            for (key, size) in sizes {
                if size == 0 {
                    return Err(keys.error(key, "must be a positive number, got 0".into()));
                }
                keys.within(key, size, 1 << 12)?;
            }
            if *taps < 2 {
                return Err(keys.error("linear_conv_kernel_dim", "must be at least 2, got 1".into()));
            }
            if !heads.value_heads.is_multiple_of(heads.key_heads) {
                let why = format!("{} key heads cannot be shared evenly by them", heads.key_heads);
                return Err(keys.error("linear_num_value_heads", why));
            }
        }
        for rope in self.rope.iter().chain(&self.block.local_rope) {
            rope.check(self.head_dim).map_err(|(key, why)| keys.error(key, why))?;
        }
        Ok(())
    }

    /// The same with the file's own spelling of its keys.
    pub(crate) fn with_raw(mut self, keys: &Keys) -> Self {
        self.raw = keys.raw.clone();
        self
    }

    pub(crate) fn common(keys: &Keys) -> Result<Self> {
        let rope = Rope::parse(&Value::Object(keys.raw.clone())).map_err(|(key, why)| keys.error(&key, why))?;
        Self::common_with(keys, rope)
    }

    /// The same for a family with its own spelling of the rotary embedding.
    pub(crate) fn common_with(keys: &Keys, rope: Rope) -> Result<Self> {
        let hidden_size = keys.size("hidden_size", None)?;
        let heads = keys.size("num_attention_heads", None)?;
        let layers = keys.size("num_hidden_layers", None)?;
        Ok(Self {
            model_type: keys.text("model_type").unwrap_or_default().into(),
            vocab_size: keys.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size", None)?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: keys.size("num_key_value_heads", Some(heads))?,
            head_dim: keys.size("head_dim", Some(hidden_size / heads.max(1)))?,
            max_position_embeddings: keys.size("max_position_embeddings", Some(2048))?,
            norm_eps: keys.number("rms_norm_eps", 1e-6),
            rope: Some(rope),
            windows: vec![None; layers],
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            block: Block::default(),
            tie_word_embeddings: keys.flag("tie_word_embeddings", false),
            bos_token_id: keys.ids("bos_token_id").first().copied(),
            eos_token_ids: keys.ids("eos_token_id"),
            encoder: None,
            head: keys.stated_head(),
            masked: false,
            raw: keys.raw.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_no_model_has_is_refused_by_its_key() {
        let llama = serde_json::json!({
            "model_type": "llama", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2,
        });
        for key in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ] {
            for size in [1u64 << 63, 1 << 32, 1 << 25] {
                let mut config = llama.clone();
                config[key] = size.into();
                let error = ModelConfig::from_json(&config.to_string(), "config.json".as_ref()).unwrap_err();
                assert!(error.to_string().contains(key), "{error}");
            }
        }
        let gpt2 = serde_json::json!({ "model_type": "gpt2", "vocab_size": 32, "n_embd": 1u64 << 63 });
        let error = ModelConfig::from_json(&gpt2.to_string(), "config.json".as_ref()).unwrap_err();
        assert!(error.to_string().contains("n_embd"), "{error}");
    }
}
