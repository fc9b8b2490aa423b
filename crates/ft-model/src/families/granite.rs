//! Granite 3 (IBM 2024), dense: Llama's block with factors on embeddings, attention, residual stream and logits.

use crate::block::Block;
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::families::llama;

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let logits = keys.factor("logits_scaling")?;
    if logits == Some(0.0) {
        return Err(keys.error(
            "logits_scaling",
            "the logits are divided by it; it must not be 0".into(),
        ));
    }
    Ok(ModelConfig {
        block: Block {
            input_scale: keys.factor("embedding_multiplier")?,
            attention_scale: Some(keys.factor("attention_multiplier")?.unwrap_or(1.0)),
            residual_scale: keys.factor("residual_multiplier")?,
            output_scale: logits.map(f64::recip),
            ..Block::default()
        },
        ..llama::parse(keys)?
    })
}
