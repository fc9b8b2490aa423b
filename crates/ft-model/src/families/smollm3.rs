//! SmolLM 3 (Bakouch et al. 2025): Llama's block, some layers without rotary embedding (NoPE: Yang et al. 2025, arXiv:2501.18795).

use serde_json::Value;

use crate::block::Block;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::{llama, qwen2};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let config = llama::parse(keys)?;
    let layers = config.num_hidden_layers;
    let rotates = match keys.raw.get("no_rope_layers") {
        // 1 is a layer with rotary embedding.
        Some(Value::Array(list)) if list.len() == layers => list.iter().map(|flag| *flag == 1).collect(),
        Some(Value::Array(list)) => {
            return Err(keys.error("no_rope_layers", format!("{} entries for {layers} layers", list.len())));
        }
        _ => {
            let interval = keys.size("no_rope_layer_interval", Some(4))?.max(1);
            (0..layers).map(|layer| (layer + 1) % interval != 0).collect()
        }
    };
    Ok(ModelConfig {
        windows: qwen2::windows(keys, layers)?,
        num_key_value_heads: keys.size("num_key_value_heads", Some(4))?,
        tie_word_embeddings: keys.flag("tie_word_embeddings", true),
        block: Block {
            rotates,
            ..Block::default()
        },
        ..config
    })
}
