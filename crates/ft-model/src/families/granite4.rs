//! Granite 4 (IBM 2025), dense: Granite 3's factors, gate and up in one matrix, and in some sizes no rotary embedding.

use serde_json::Value;

use crate::block::Block;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::granite;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let experts = keys.size("num_local_experts", Some(8))?;
    if experts > 0 {
        return Err(keys.error(
            "num_local_experts",
            format!("{experts} experts are not supported here; 0 are"),
        ));
    }
    let attends = |kind: &Value| {
        kind.as_str()
            .is_some_and(|kind| kind.ends_with("attention") && !kind.starts_with("linear"))
    };
    match keys.raw.get("layer_types").and_then(Value::as_array) {
        Some(kinds) if kinds.iter().all(attends) => {}
        _ => {
            let why = "layers of Mamba are not supported here; layers of attention alone are";
            return Err(keys.error("layer_types", why.into()));
        }
    }
    let sizes = keys.with_sizes(&[("intermediate_size", keys.size("shared_intermediate_size", Some(1024))?)]);
    let config = granite::parse(&sizes)?.with_raw(keys);
    let turns = match keys.text("position_embedding_type") {
        Some("rope") => true,
        None | Some("nope") => false,
        Some(other) => {
            return Err(keys.error(
                "position_embedding_type",
                format!("\"{other}\" is not supported here; \"rope\" is"),
            ));
        }
    };
    Ok(ModelConfig {
        block: Block {
            shared_mlp: true,
            rotates: if turns {
                Vec::new()
            } else {
                vec![false; config.num_hidden_layers]
            },
            ..config.block
        },
        ..config
    })
}
