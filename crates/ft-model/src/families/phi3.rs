//! Phi 3 and 4 (Abdin et al. 2024, arXiv:2404.14219): Llama's block with one matrix for queries, keys and values and one for gate and
//! up; the small ones turn a part of each head alone.

use crate::block::Block;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    let config = ModelConfig::common(keys)?;
    let window = match keys.raw.get("sliding_window") {
        None => None,
        Some(value) if value.is_null() => None,
        Some(_) => Some(keys.size("sliding_window", None)?),
    };
    Ok(ModelConfig {
        windows: vec![window; config.num_hidden_layers],
        norm_eps: keys.number("rms_norm_eps", 1e-5),
        block: Block {
            fused: true,
            ..Block::default()
        },
        ..config
    })
}
