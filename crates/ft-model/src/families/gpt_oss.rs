//! gpt-oss (Agarwal et al. 2025, arXiv:2508.10925): experts in every layer, all in one tensor, sinks in attention, every other layer with a
//! sliding window. Experts that are stored in MXFP4 are unpacked while they are read.

use ft_kernels::Clamp;
use serde_json::json;

use crate::block::{Activation, Block, ExpertsConfig, MlpNames};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::rope::Rope;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    let sizes = keys.with_defaults(&[
        ("vocab_size", 201_088),
        ("hidden_size", 2880),
        ("intermediate_size", 2880),
        ("num_hidden_layers", 36),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 8),
        ("head_dim", 64),
        ("max_position_embeddings", 131_072),
        ("num_experts_per_tok", 4),
        ("sliding_window", 128),
    ]);
    let config = ModelConfig::common_with(&sizes, rope(keys)?)?.with_raw(keys);
    let (layers, window) = (config.num_hidden_layers, sizes.size("sliding_window", None)?);
    let slides = keys
        .sliding(layers)?
        .unwrap_or_else(|| (0..layers).map(|layer| layer % 2 == 0).collect());
    let attention_bias = keys.flag("attention_bias", true);
    let experts = ExpertsConfig {
        count: keys.first_size(&["num_local_experts", "num_experts"])?,
        per_token: sizes.first_size(&["num_experts_per_tok", "experts_per_token"])?,
        inner: config.intermediate_size,
        shared: None,
        normalized: true,
        layers: vec![true; layers],
        balance: keys.balance(),
        fused: true,
        stacked: true,
        router: "router",
        path: "mlp",
        names: MlpNames::LLAMA,
        stored: None,
    };
    Ok(ModelConfig {
        norm_eps: keys.number("rms_norm_eps", 1e-5),
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        windows: slides.into_iter().map(|slides| slides.then_some(window)).collect(),
        block: Block {
            sinks: true,
            activation: Activation::Clamped(clamp(keys)?),
            experts: Some(experts),
            ..Block::default()
        },
        ..config
    })
}

fn clamp(keys: &Keys) -> Result<Clamp> {
    let positive = |key: &str, default: f64| match keys.factor(key)?.unwrap_or(default) {
        number if number > 0.0 => Ok(number),
        number => Err(keys.error(key, format!("must be above 0, got {number}"))),
    };
    Ok(Clamp {
        alpha: positive("swiglu_alpha", 1.702)?,
        limit: positive("swiglu_limit", 7.0)?,
    })
}

/// YaRN with constants of its own where the file says nothing.
fn rope(keys: &Keys) -> Result<Rope> {
    let said = |key: &str| keys.raw.get(key).filter(|section| section.is_object());
    let section = said("rope_parameters").or(said("rope_scaling")).cloned();
    let section = section.unwrap_or_else(|| {
        json!({
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
            "original_max_position_embeddings": 4096,
        })
    });
    let theta = keys.factor("rope_theta")?.unwrap_or(150_000.0);
    let config = json!({ "rope_parameters": section, "rope_theta": theta });
    Rope::parse(&config).map_err(|(key, why)| keys.error(&key, why))
}
