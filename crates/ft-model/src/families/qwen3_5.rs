//! Qwen 3.5 and 3.6, dense (Qwen Team 2026): three layers of linear attention (Gated DeltaNet, Yang et al. 2024, arXiv:2412.06464) to one of
//! attention, whose output passes a gate and of whose heads a quarter turns.

use ft_kernels::DeltaHeads;
use serde_json::{Value, json};

use crate::block::{Block, DeltaConfig, QkNorm};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    if !keys.flag("attn_output_gate", true) {
        return Err(keys.error("attn_output_gate", "false is not supported here; true is".into()));
    }
    let mut raw = keys.raw.clone();
    raw.entry("partial_rotary_factor").or_insert(json!(0.25));
    let sizes = Keys::of(raw, keys.path.clone()).with_defaults(&[("head_dim", 256)]);
    let config = ModelConfig::common(&sizes)?.with_raw(keys);
    let size = |key: &str, default| keys.size(&format!("linear_{key}"), Some(default));
    let delta = DeltaConfig {
        heads: DeltaHeads {
            key_heads: size("num_key_heads", 16)?,
            value_heads: size("num_value_heads", 32)?,
            key_dim: size("key_head_dim", 128)?,
            value_dim: size("value_head_dim", 128)?,
        },
        taps: size("conv_kernel_dim", 4)?,
        layers: linear_layers(keys, config.num_hidden_layers)?,
    };
    let attention_bias = keys.flag("attention_bias", false);
    Ok(ModelConfig {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        block: Block {
            norms_count_from_one: true,
            qk_norm: QkNorm::Heads,
            output_gate: true,
            delta: Some(delta),
            ..Block::default()
        },
        ..config
    })
}

/// By `layer_types`, or all but every `full_attention_interval`th.
fn linear_layers(keys: &Keys, layers: usize) -> Result<Vec<bool>> {
    const KINDS: [&str; 2] = ["linear_attention", "full_attention"];
    let kinds = keys.raw.get("layer_types").and_then(Value::as_array);
    if let Some(kind) = kinds
        .into_iter()
        .flatten()
        .find(|kind| !kind.as_str().is_some_and(|kind| KINDS.contains(&kind)))
    {
        return Err(keys.error(
            "layer_types",
            format!("{kind} is not supported here; supported: {}", KINDS.join(", ")),
        ));
    }
    let interval = keys.size("full_attention_interval", Some(4))?.max(1);
    let default = || (0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect();
    Ok(keys.layers_of(KINDS[0], layers)?.unwrap_or_else(default))
}
