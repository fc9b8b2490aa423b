//! Gemma 2 (Gemma Team 2024, arXiv:2408.00118): normalizations around both sub-layers, every other layer with a sliding window, scores
//! and logits bounded softly.

use crate::block::{Activation, Block, Norms};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_activation", &["gelu_pytorch_tanh"])?;
    keys.need_absent(&["use_bidirectional_attention"])?;
    let sizes = keys.with_defaults(&[
        ("vocab_size", 256_000),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("max_position_embeddings", 8192),
    ]);
    let config = ModelConfig::common(&sizes)?.with_raw(keys);
    let (layers, window) = (config.num_hidden_layers, keys.size("sliding_window", Some(4096))?);
    let slides = keys
        .sliding(layers)?
        .unwrap_or_else(|| (0..layers).map(|layer| layer % 2 == 0).collect());
    let attention_bias = keys.flag("attention_bias", false);
    Ok(ModelConfig {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        windows: slides.into_iter().map(|slides| slides.then_some(window)).collect(),
        tie_word_embeddings: keys.flag("tie_word_embeddings", true),
        block: Block {
            norms: Norms::Around,
            norms_count_from_one: true,
            activation: Activation::GeluTanh,
            attention_scale: Some(attention_scale(keys)?),
            score_cap: keys.cap("attn_logit_softcapping", Some(50.0))?,
            logit_cap: keys.cap("final_logit_softcapping", Some(30.0))?,
            token_scale: Some((config.hidden_size as f64).sqrt()),
            ..Block::default()
        },
        ..config
    })
}

/// Factor of queries times keys.
pub(super) fn attention_scale(keys: &Keys) -> Result<f64> {
    let scalar = keys.factor("query_pre_attn_scalar")?.unwrap_or(256.0);
    match scalar > 0.0 {
        true => Ok(scalar.powf(-0.5)),
        false => Err(keys.error("query_pre_attn_scalar", format!("must be above 0, got {scalar}"))),
    }
}
