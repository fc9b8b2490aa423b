//! Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with experts in every layer.

use crate::block::{Block, ExpertsConfig, MlpNames};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::mistral;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let jitter = keys.number("router_jitter_noise", 0.0);
    if jitter != 0.0 {
        return Err(keys.error("router_jitter_noise", format!("{jitter} is not supported here; 0 is")));
    }
    let config = mistral::parse(keys)?;
    let experts = ExpertsConfig {
        count: keys.first_size(&["num_local_experts", "num_experts"])?,
        per_token: keys.size("num_experts_per_tok", Some(2))?,
        inner: config.intermediate_size,
        shared: None,
        normalized: true,
        layers: vec![true; config.num_hidden_layers],
        balance: keys.balance(),
        fused: false,
        stacked: false,
        router: "gate",
        path: "block_sparse_moe",
        names: MlpNames {
            gate: "w1",
            up: "w3",
            down: "w2",
            gate_up: "gate_up_proj",
            joins: true,
        },
        stored: None,
    };
    let windowed = keys.raw.contains_key("sliding_window");
    Ok(ModelConfig {
        windows: if windowed {
            config.windows
        } else {
            vec![None; config.num_hidden_layers]
        },
        block: Block {
            experts: Some(experts),
            ..config.block
        },
        ..config
    })
}
