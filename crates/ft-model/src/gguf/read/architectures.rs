//! The architectures of llama.cpp that are read, one line and one function each.

use serde_json::{Map, Value as Json, json as object};

use super::keys::Arch;
use super::{Said, json};
use crate::error::Result;

/// How a family's files differ from Llama's.
pub(super) struct Architecture {
    /// Value of `general.architecture`.
    pub name: &'static str,
    /// Whether rows of queries and keys are in pairs.
    pub pairs: bool,
    /// Names of tensors in a block that are not Llama's, with those below a layer of the checkpoint.
    pub names: &'static [(&'static str, &'static str)],
    /// Its keys of `config.json`, on top of the common ones; the family's name is returned.
    pub keys: fn(&Arch, &mut Map<String, Json>) -> Result<&'static str>,
    /// Keys below its name that it has beside the common ones.
    pub known: &'static [&'static str],
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    pairs: true,
    names: &[
        ("ffn_gate_inp", "block_sparse_moe.gate"),
        ("ffn_gate_exps", "block_sparse_moe.experts.w1"),
        ("ffn_down_exps", "block_sparse_moe.experts.w2"),
        ("ffn_up_exps", "block_sparse_moe.experts.w3"),
    ],
    keys: llama,
    known: &["expert_count", "expert_used_count"],
};

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    pairs: false,
    names: &[],
    keys: |_, _| Ok("qwen2"),
    known: &[],
};

/// Of Qwen's models with experts.
const EXPERTS: Architecture = Architecture {
    name: "qwen3moe",
    names: &[
        ("ffn_gate_inp", "mlp.gate"),
        ("ffn_gate_exps", "mlp.experts.gate_proj"),
        ("ffn_up_exps", "mlp.experts.up_proj"),
        ("ffn_down_exps", "mlp.experts.down_proj"),
        ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
        ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
        ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ],
    keys: |arch, keys| experts(arch, keys, "qwen3_moe"),
    known: &[
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "expert_shared_feed_forward_length",
    ],
    ..QWEN2
};

static ARCHITECTURES: [Architecture; 11] = [
    LLAMA,
    QWEN2,
    Architecture {
        name: "qwen3",
        keys: |arch, keys| {
            attention_bias(arch, keys);
            Ok("qwen3")
        },
        ..QWEN2
    },
    EXPERTS,
    Architecture {
        name: "qwen2moe",
        keys: |arch, keys| experts(arch, keys, "qwen2_moe"),
        ..EXPERTS
    },
    Architecture {
        name: "gemma3",
        names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
        keys: gemma3,
        known: &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "rope.freq_base_swa",
        ],
        ..QWEN2
    },
    Architecture {
        name: "phi3",
        names: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
        keys: phi3,
        known: &["attention.sliding_window"],
        ..QWEN2
    },
    Architecture {
        name: "smollm3",
        names: &[],
        // Every fourth layer has no rotary embedding, whatever a file says.
        keys: |arch, keys| {
            llama(arch, keys)?;
            keys.insert("no_rope_layer_interval".into(), 4.into());
            Ok("smollm3")
        },
        known: &[],
        ..LLAMA
    },
    Architecture {
        name: "olmo2",
        names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
        keys: |_, _| Ok("olmo2"),
        ..QWEN2
    },
    Architecture {
        name: "granite",
        names: &[],
        keys: granite,
        known: &["embedding_scale", "residual_scale", "logit_scale", "attention.scale"],
        ..LLAMA
    },
    Architecture {
        name: "gpt2",
        names: &[
            ("attn_norm", "ln_1"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_norm", "ln_2"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
        ],
        keys: gpt2,
        known: &["attention.layer_norm_epsilon"],
        ..QWEN2
    },
];

impl Architecture {
    /// That of a file.
    pub fn of(said: &Said) -> Result<&'static Architecture> {
        const KEY: &str = "general.architecture";
        let name = said.value(KEY).and_then(|value| value.as_str()).unwrap_or_default();
        ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            said.error(
                KEY,
                format!(
                    "\"{name}\" is not read; {} are. Take the checkpoint folder that the file was made from, if its family is here",
                    known.join(", ")
                ),
            )
        })
    }

    /// Whether norms are stored with one added.
    pub fn norms_from_one(&self) -> bool {
        self.name == "gemma3"
    }

    /// Whether matrices stand the other way round in checkpoints.
    pub fn transposed(&self) -> bool {
        self.name == "gpt2"
    }
}

fn attention_bias(arch: &Arch, keys: &mut Map<String, Json>) {
    let bias = arch.said.has("attn_q.bias");
    keys.insert("attention_bias".into(), bias.into());
}

fn llama(arch: &Arch, keys: &mut Map<String, Json>) -> Result<&'static str> {
    attention_bias(arch, keys);
    keys.insert("mlp_bias".into(), arch.said.has("ffn_up.bias").into());
    let Some(count) = arch.size("expert_count")?.filter(|count| *count > 0) else {
        return Ok("llama");
    };
    keys.insert("num_local_experts".into(), count.into());
    keys.insert("num_experts_per_tok".into(), arch.needed("expert_used_count")?.into());
    keys.insert("sliding_window".into(), Json::Null);
    Ok("mixtral")
}

fn experts(arch: &Arch, keys: &mut Map<String, Json>, family: &'static str) -> Result<&'static str> {
    let inner = arch.needed("expert_feed_forward_length")?;
    // No model has more than so many layers; the configuration is refused by its number of them.
    let layers = 0..arch.needed("block_count")?.min(1 << 12);
    let router = |layer: &u64| arch.said.file.tensor(&format!("blk.{layer}.ffn_gate_inp.weight"));
    let dense: Vec<u64> = layers.filter(|layer| router(layer).is_none()).collect();
    keys.extend([
        ("num_experts".into(), arch.needed("expert_count")?.into()),
        ("num_experts_per_tok".into(), arch.needed("expert_used_count")?.into()),
        ("moe_intermediate_size".into(), inner.into()),
        // What llama.cpp computes for each of the two, whatever a file says.
        ("norm_topk_prob".into(), (family == "qwen3_moe").into()),
        ("decoder_sparse_step".into(), 1.into()),
        ("mlp_only_layers".into(), dense.into()),
    ]);
    match family {
        "qwen2_moe" => {
            keys.insert("qkv_bias".into(), arch.said.has("attn_q.bias").into());
            let shared = arch.size("expert_shared_feed_forward_length")?;
            let shared = match shared {
                Some(shared) => shared,
                None => arch.rows("blk.0.ffn_up_shexp.weight")?,
            };
            keys.insert("shared_expert_intermediate_size".into(), shared.into());
        }
        _ => attention_bias(arch, keys),
    }
    Ok(family)
}

fn gemma3(arch: &Arch, keys: &mut Map<String, Json>) -> Result<&'static str> {
    let (layers, hidden) = (arch.needed("block_count")?, arch.needed("embedding_length")?);
    let heads = arch.needed("attention.head_count")?.max(1);
    let every = match arch.said.value(&arch.key("attention.sliding_window_pattern")) {
        Some(ft_gguf::Value::Bools(slides)) => Err(slides.clone()),
        _ => Ok(arch.size("attention.sliding_window_pattern")?.unwrap_or(6).max(1)),
    };
    // No model has more than so many layers; the configuration is refused by its number of them.
    let kinds: Vec<Json> = (0..layers.min(1 << 12))
        .map(|layer| match &every {
            Ok(every) => (layer + 1) % every != 0,
            Err(slides) => slides.get(layer as usize).copied().unwrap_or(false),
        })
        .map(|slides| if slides { "sliding_attention" } else { "full_attention" }.into())
        .collect();
    // Of the one with 27 billion parameters, the queries are scaled by the width that a head would have without `head_dim`.
    let scale = match layers {
        62 => hidden as f64 / heads as f64,
        _ => arch.head_dim()? as f64,
    };
    let local = arch.number("rope.freq_base_swa")?.unwrap_or(1e4);
    let global = keys.remove("rope_theta").unwrap_or(json(1e6));
    keys.extend([
        ("hidden_activation".into(), "gelu_pytorch_tanh".into()),
        ("layer_types".into(), kinds.into()),
        ("rope_theta".into(), global),
        ("rope_local_base_freq".into(), json(local)),
        ("query_pre_attn_scalar".into(), json(scale)),
    ]);
    if let Some(window) = arch.size("attention.sliding_window")? {
        keys.insert("sliding_window".into(), window.into());
    }
    Ok("gemma3_text")
}

fn phi3(arch: &Arch, keys: &mut Map<String, Json>) -> Result<&'static str> {
    let window = arch.size("attention.sliding_window")?.filter(|window| *window > 0);
    keys.insert("sliding_window".into(), window.map_or(Json::Null, Json::from));
    if let Some(original) = arch.size("rope.scaling.original_context_length")? {
        keys.insert("original_max_position_embeddings".into(), original.into());
    }
    Ok("phi3")
}

fn granite(arch: &Arch, keys: &mut Map<String, Json>) -> Result<&'static str> {
    llama(arch, keys)?;
    let own = (arch.head_dim()? as f64).powf(-0.5);
    let scales = [
        ("embedding_multiplier", "embedding_scale", 1.0),
        ("residual_multiplier", "residual_scale", 1.0),
        ("logits_scaling", "logit_scale", 1.0),
        ("attention_multiplier", "attention.scale", own),
    ];
    for (key, own, default) in scales {
        let scale = arch.number(own)?.unwrap_or(default);
        keys.insert(key.into(), json(scale));
    }
    Ok("granite")
}

fn gpt2(arch: &Arch, keys: &mut Map<String, Json>) -> Result<&'static str> {
    let eps = arch.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
    for key in ["rms_norm_eps", "rope_theta", "head_dim"] {
        keys.remove(key);
    }
    let object = object!({
        "n_embd": arch.needed("embedding_length")?,
        "n_head": arch.needed("attention.head_count")?,
        "n_layer": arch.needed("block_count")?,
        "n_inner": arch.needed("feed_forward_length")?,
        "n_positions": arch.needed("context_length")?,
        "layer_norm_epsilon": json(eps),
        "activation_function": "gelu_new",
    });
    let Json::Object(own) = object else {
        unreachable!("written so")
    };
    keys.extend(own);
    Ok("gpt2")
}
