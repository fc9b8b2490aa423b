//! Qwen 3 (Yang et al. 2025, arXiv:2505.09388): Llama's block with normalized queries and keys and its own head width.

use crate::block::{Block, QkNorm};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::qwen2;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    let config = ModelConfig::common(keys)?;
    let attention_bias = keys.flag("attention_bias", false);
    Ok(ModelConfig {
        head_dim: keys.size("head_dim", Some(128))?,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        block: Block {
            qk_norm: QkNorm::Heads,
            ..Block::default()
        },
        windows: qwen2::windows(keys, config.num_hidden_layers)?,
        ..config
    })
}
