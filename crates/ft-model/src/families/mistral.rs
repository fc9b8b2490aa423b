//! Mistral 7B (Jiang et al. 2023, arXiv:2310.06825): Llama's block with a sliding window.

use crate::config::{Keys, ModelConfig};
use crate::error::Result;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    let config = ModelConfig::common(keys)?;
    let window = match keys.raw.get("sliding_window") {
        Some(value) if value.is_null() => None,
        _ => Some(keys.size("sliding_window", Some(4096))?),
    };
    Ok(ModelConfig {
        windows: vec![window; config.num_hidden_layers],
        num_key_value_heads: keys.size("num_key_value_heads", Some(8))?,
        ..config
    })
}
