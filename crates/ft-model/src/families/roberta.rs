//! RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT with one token type, positions that count from behind that of padding, and a head of
//! its own.

use super::bert;
use super::encoder::{self, EncoderConfig, HeadActivation, Names};
use crate::config::{Keys, ModelConfig};
use crate::error::Result;
use crate::masked_head::MaskedNames;

const NAMES: Names = Names {
    base: "roberta",
    prefix: "roberta.",
    before: ("classifier.dense", HeadActivation::Tanh),
    last: "classifier.out_proj",
    masked: MaskedNames {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        decoder: "lm_head.decoder",
        bias: "lm_head",
        exact_gelu: true,
        biased: true,
    },
    ..bert::NAMES
};

pub(crate) fn parse(keys: &Keys) -> Result<ModelConfig> {
    let sizes = bert::sizes(keys);
    // The table has rows for padding and for what is before it, which no token of a text takes.
    let (rows, first) = (
        sizes.size("max_position_embeddings", None)?,
        keys.size("pad_token_id", Some(1))? + 1,
    );
    let positions = rows.checked_sub(first).filter(|positions| *positions > 0);
    let positions = positions.ok_or_else(|| {
        keys.error(
            "max_position_embeddings",
            format!("{rows} positions, of which pad_token_id takes {first}; none is left"),
        )
    })?;
    let encoder = EncoderConfig {
        token_types: keys.size("type_vocab_size", Some(2))?,
        first_position: first,
        ..EncoderConfig::of(&NAMES)
    };
    let sizes = sizes.with_sizes(&[("max_position_embeddings", positions)]);
    Ok(encoder::config(&sizes, "hidden_act", keys.number("layer_norm_eps", 1e-12), encoder)?.with_raw(keys))
}
