//! Gemma 3, text (Gemma Team 2025, arXiv:2503.19786): normalizations around both sub-layers and of each query and key head, five layers
//! with a sliding window to one without, and a rotary embedding of its own for each of the two kinds.

use serde_json::{Value, json};

use crate::block::{Activation, Block, Norms, QkNorm};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::gemma2::attention_scale;
use crate::rope::Rope;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_activation", &["gelu_pytorch_tanh"])?;
    keys.need_absent(&["use_bidirectional_attention"])?;
    let [global, local] = ropes(keys)?;
    // The files of the larger ones leave most of their sizes to transformers.
    let sizes = keys.with_defaults(&[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
    ]);
    let config = ModelConfig::common_with(&sizes, global)?.with_raw(keys);
    let (layers, window) = (config.num_hidden_layers, keys.size("sliding_window", Some(4096))?);
    let slides = match keys.sliding(layers)? {
        Some(slides) => slides,
        None => {
            let pattern = ["sliding_window_pattern", "_sliding_window_pattern"].into_iter();
            let key = pattern
                .clone()
                .find(|key| keys.raw.contains_key(*key))
                .unwrap_or("sliding_window_pattern");
            let pattern = keys.size(key, Some(6))?.max(1);
            (0..layers).map(|layer| (layer + 1) % pattern != 0).collect()
        }
    };
    let head_dim = keys.size("head_dim", Some(256))?;
    let attention_bias = keys.flag("attention_bias", false);
    Ok(ModelConfig {
        head_dim,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        windows: slides.into_iter().map(|slides| slides.then_some(window)).collect(),
        max_position_embeddings: keys.size("max_position_embeddings", Some(131_072))?,
        tie_word_embeddings: keys.flag("tie_word_embeddings", true),
        block: Block {
            norms: Norms::Around,
            norms_count_from_one: true,
            qk_norm: QkNorm::Heads,
            activation: Activation::GeluTanh,
            attention_scale: Some(attention_scale(keys)?),
            score_cap: keys.cap("attn_logit_softcapping", None)?,
            logit_cap: keys.cap("final_logit_softcapping", None)?,
            local_rope: Some(local),
            token_scale: Some((config.hidden_size as f64).sqrt()),
            ..Block::default()
        },
        ..config
    })
}

/// That of layers without a window, then that of those with one: by kind of layer in `rope_parameters` (transformers 5), or by
/// `rope_theta`, `rope_scaling` and `rope_local_base_freq` (transformers 4).
fn ropes(keys: &Keys) -> Result<[Rope; 2]> {
    let rope = |config: Value| Rope::parse(&config).map_err(|(key, why)| keys.error(&key, why));
    let by_kind = |kind: &str| keys.raw.get("rope_parameters").and_then(|kinds| kinds.get(kind));
    let theta = |key: &str, default: f64| Ok::<f64, crate::Error>(keys.factor(key)?.unwrap_or(default));
    let global = match by_kind("full_attention") {
        Some(section) => rope(json!({ "rope_parameters": section, "rope_theta": 1e6 }))?,
        None => rope(json!({ "rope_scaling": keys.raw.get("rope_scaling"), "rope_theta": theta("rope_theta", 1e6)? }))?,
    };
    let local = match by_kind("sliding_attention") {
        Some(section) => rope(json!({ "rope_parameters": section, "rope_theta": 1e4 }))?,
        None => rope(json!({ "rope_theta": theta("rope_local_base_freq", 1e4)? }))?,
    };
    Ok([global, local])
}
