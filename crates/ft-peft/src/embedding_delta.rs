//! What can sit on a table of rows that are looked up by id.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::methods::ParamMut;
use crate::methods::lora::LoraEmbedding;
use crate::methods::trainable_tokens::TrainableTokens;

/// The adapter of an embedding table.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one or two in a model")]
pub enum EmbeddingDelta {
    /// See [`lora`](crate::methods::lora).
    Lora(LoraEmbedding),
    /// See [`trainable_tokens`](crate::methods::trainable_tokens).
    Tokens(TrainableTokens),
}

impl EmbeddingDelta {
    /// Adapted rows `[n, hidden]`, given the table's own rows and their ids `[n]`.
    pub fn lookup(&self, rows: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        match self {
            EmbeddingDelta::Lora(lora) => lora.lookup(rows, ids),
            EmbeddingDelta::Tokens(tokens) => tokens.lookup(rows, ids),
        }
    }

    /// Whether a head that is tied to the table follows it.
    pub fn moves_head(&self) -> bool {
        matches!(self, EmbeddingDelta::Tokens(_))
    }

    /// The adapted table `[rows, hidden]`, for merging.
    pub fn fold(&self, table: Tensor<2>) -> Tensor<2> {
        match self {
            EmbeddingDelta::Lora(lora) => lora.fold(table),
            EmbeddingDelta::Tokens(tokens) => tokens.table(table),
        }
    }

    /// The trainable tensors, by their names in PEFT's file after the table's path.
    pub fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        match self {
            EmbeddingDelta::Lora(lora) => lora.params(),
            EmbeddingDelta::Tokens(tokens) => tokens.params(),
        }
    }
}
