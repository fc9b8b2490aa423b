//! Qwen 1.5 and 2 with experts (Yang et al. 2024, arXiv:2407.10671, section 2.2.2): one more expert computes every token.

use crate::block::{Block, ExpertsConfig};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::{qwen2, qwen3_moe};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let config = qwen2::parse(keys)?;
    let experts = qwen3_moe::experts(keys, config.num_hidden_layers)?;
    Ok(ModelConfig {
        qkv_bias: keys.flag("qkv_bias", true),
        block: Block {
            experts: Some(ExpertsConfig {
                shared: Some(keys.size("shared_expert_intermediate_size", None)?),
                ..experts
            }),
            ..config.block
        },
        ..config
    })
}
