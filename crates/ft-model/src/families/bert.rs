//! BERT (Devlin et al. 2018, arXiv:1810.04805).

use super::encoder::{self, EncoderConfig, HeadActivation, Names};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::masked_head::MaskedNames;

pub(super) const NAMES: Names = Names {
    base: "bert",
    prefix: "bert.",
    layers: "encoder.layer",
    inputs: ["attention.self.query", "attention.self.key", "attention.self.value"],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
    adapters: ["attention.output", "output"],
    before: ("bert.pooler.dense", HeadActivation::Tanh),
    last: "classifier",
    trained: &["classifier"],
    masked: MaskedNames {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder",
        bias: "cls.predictions",
        exact_gelu: false,
        biased: true,
    },
};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let token_types = keys.size("type_vocab_size", Some(2))?;
    let encoder = EncoderConfig {
        token_types,
        tells_texts: token_types > 1,
        ..EncoderConfig::of(&NAMES)
    };
    encoder::config(
        &sizes(keys),
        "hidden_act",
        keys.number("layer_norm_eps", 1e-12),
        encoder,
    )
}

/// The sizes that transformers has where the file says nothing.
pub(super) fn sizes(keys: &Keys) -> Keys {
    keys.with_defaults(&[
        ("vocab_size", 30_522),
        ("hidden_size", 768),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        ("intermediate_size", 3072),
        ("max_position_embeddings", 512),
    ])
}
