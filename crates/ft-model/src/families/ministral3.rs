//! Ministral 3 (Mistral AI 2025): Mistral's block over YaRN, with queries that grow with the position (Llama 4's temperature).

use serde_json::Value;

use crate::block::{Block, QueryScale};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::mistral;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let sections = ["rope_parameters", "rope_scaling"];
    let found = sections
        .into_iter()
        .find_map(|key| Some((key, keys.raw.get(key)?.as_object()?)));
    let Some((name, rope)) = found else {
        return Err(keys.error("rope_parameters", "missing; this family's say how queries grow".into()));
    };
    let number = |key: &str| {
        rope.get(key)
            .and_then(Value::as_f64)
            .filter(|number| number.is_finite())
    };
    let query_scale = match (
        number("llama_4_scaling_beta"),
        number("original_max_position_embeddings"),
    ) {
        (None, _) => None,
        (Some(beta), Some(original)) if original >= 1.0 => Some(QueryScale { beta, original }),
        (Some(_), other) => {
            let why = format!("{name} needs a number of at least 1 beside llama_4_scaling_beta, got {other:?}");
            return Err(keys.error("original_max_position_embeddings", why));
        }
    };
    let config = mistral::parse(keys)?;
    let windowed = keys.raw.contains_key("sliding_window");
    Ok(ModelConfig {
        head_dim: keys.size("head_dim", Some(128))?,
        windows: if windowed {
            config.windows
        } else {
            vec![None; config.num_hidden_layers]
        },
        block: Block {
            query_scale,
            ..config.block
        },
        ..config
    })
}
