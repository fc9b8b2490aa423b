//! OLMo 2 (Team OLMo 2025, arXiv:2501.00656): Llama's sub-layers with the normalization after each, and over all queries and keys.

use crate::block::{Block, Norms, QkNorm};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::llama;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    Ok(ModelConfig {
        norm_eps: keys.number("rms_norm_eps", 1e-5),
        block: Block {
            norms: Norms::After,
            qk_norm: QkNorm::Whole,
            ..Block::default()
        },
        ..llama::parse(keys)?
    })
}
