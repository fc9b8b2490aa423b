//! Qwen 3 with experts (Yang et al. 2025, arXiv:2505.09388).

use crate::block::{Block, ExpertsConfig, MlpNames};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::qwen3;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let config = qwen3::parse(keys)?;
    let experts = experts(keys, config.num_hidden_layers)?;
    Ok(ModelConfig {
        head_dim: keys.size("head_dim", Some(config.hidden_size / config.num_attention_heads.max(1)))?,
        block: Block {
            experts: Some(experts),
            ..config.block
        },
        ..config
    })
}

/// Experts as Qwen's files say them.
pub(super) fn experts(keys: &Keys, layers: usize) -> Result<ExpertsConfig> {
    let step = keys.size("decoder_sparse_step", Some(1))?.max(1);
    let dense = keys.ids("mlp_only_layers");
    Ok(ExpertsConfig {
        count: keys.first_size(&["num_experts", "num_local_experts"])?,
        per_token: keys.size("num_experts_per_tok", None)?,
        inner: keys.size("moe_intermediate_size", None)?,
        shared: None,
        normalized: keys.flag("norm_topk_prob", false),
        layers: (0..layers)
            .map(|layer| (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as u32)))
            .collect(),
        balance: keys.balance(),
        fused: false,
        stacked: false,
        router: "gate",
        path: "mlp",
        names: MlpNames::EXPERT,
        stored: None,
    })
}
