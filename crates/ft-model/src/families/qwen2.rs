//! Qwen 2 and 2.5 (Yang et al. 2024, arXiv:2407.10671): Llama's block with biases on queries, keys and values.

use crate::config::{Keys, ModelConfig};
use crate::error::Result;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    keys.need_activation("hidden_act", &["silu"])?;
    let config = ModelConfig::common(keys)?;
    Ok(ModelConfig {
        qkv_bias: true,
        windows: windows(keys, config.num_hidden_layers)?,
        ..config
    })
}

/// `layer_types` where it is given, else every layer from `max_window_layers` on, and only with `use_sliding_window`.
pub(crate) fn windows(keys: &Keys, layers: usize) -> Result<Vec<Option<usize>>> {
    if !keys.flag("use_sliding_window", false) {
        return Ok(vec![None; layers]);
    }
    let window = keys.size("sliding_window", Some(4096))?;
    let slides = match keys.sliding(layers)? {
        Some(slides) => slides,
        None => {
            let from = keys.size("max_window_layers", Some(28))?;
            (0..layers).map(|layer| layer >= from).collect()
        }
    };
    Ok(slides.into_iter().map(|slides| slides.then_some(window)).collect())
}
