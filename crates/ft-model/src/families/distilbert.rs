//! DistilBERT (Sanh et al. 2019, arXiv:1910.01108): BERT without token types and with half the layers, under other names.

use super::encoder::{self, EncoderConfig, HeadActivation, Names};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::masked_head::MaskedNames;

const NAMES: Names = Names {
    base: "distilbert",
    prefix: "distilbert.",
    layers: "transformer.layer",
    inputs: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
    adapters: ["attention_adapters", "output_adapters"],
    before: ("pre_classifier", HeadActivation::Relu),
    last: "classifier",
    trained: &["pre_classifier", "classifier"],
    masked: MaskedNames {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        decoder: "vocab_projector",
        bias: "vocab_projector",
        exact_gelu: false,
        biased: true,
    },
};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let sizes = keys.with_sizes(&[
        ("hidden_size", keys.size("dim", Some(768))?),
        ("num_hidden_layers", keys.size("n_layers", Some(6))?),
        ("num_attention_heads", keys.size("n_heads", Some(12))?),
        ("intermediate_size", keys.size("hidden_dim", Some(3072))?),
        ("vocab_size", keys.size("vocab_size", Some(30_522))?),
        (
            "max_position_embeddings",
            keys.size("max_position_embeddings", Some(512))?,
        ),
    ]);
    let encoder = EncoderConfig::of(&NAMES);
    Ok(encoder::config(&sizes, "activation", 1e-12, encoder)?.with_raw(keys))
}
