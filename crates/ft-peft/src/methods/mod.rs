//! One file per method; one line per method in each enum here.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use ft_quant::Weight;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slots::Pass;

pub mod full;
pub mod lora;
pub(crate) mod lora_init;

/// Section `[peft]`: which method, with its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum PeftConfig {
    /// Low-rank adapters beside frozen projections.
    Lora(lora::LoraConfig),
    /// The checkpoint's own tensors train, all of them or a chosen part.
    Full(full::FullConfig),
}

impl Default for PeftConfig {
    fn default() -> Self {
        PeftConfig::Lora(lora::LoraConfig::default())
    }
}

impl PeftConfig {
    /// The name used in `peft.method`.
    pub fn name(&self) -> &'static str {
        match self {
            PeftConfig::Lora(_) => "lora",
            PeftConfig::Full(_) => "full",
        }
    }
}

/// What a method adds to a projection.
#[derive(Module, Debug)]
pub enum Delta {
    /// See [`lora`].
    Lora(lora::Lora),
}

impl Delta {
    /// The adapted product: x `[.., in]` to `[.., out]`, without the layer's bias.
    pub fn project<const D: usize>(&self, x: Tensor<D>, weight: &Weight, pass: &Pass) -> Tensor<D> {
        match self {
            Delta::Lora(lora) => lora.project(x, weight, pass),
        }
    }

    /// The adapted matrix `[out, in]` in f32, for merging.
    pub fn fold(&self, weight: Tensor<2>) -> Tensor<2> {
        match self {
            Delta::Lora(lora) => lora.fold(weight),
        }
    }

    /// What the method adds to the layer's bias, `[out]`.
    pub fn bias(&self) -> Option<Tensor<1>> {
        match self {
            Delta::Lora(lora) => lora.bias.as_ref().map(|b| b.val().detach() * lora.scale),
        }
    }
}

/// What a method adds to an embedding table.
#[derive(Module, Debug)]
pub enum EmbeddingDelta {
    /// See [`lora`].
    Lora(lora::LoraEmbedding),
}

impl EmbeddingDelta {
    /// Adapted rows `[n, hidden]`, given the table's own rows and their ids `[n]`.
    pub fn lookup(&self, rows: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        match self {
            EmbeddingDelta::Lora(lora) => lora.lookup(rows, ids),
        }
    }

    /// The adapted table `[rows, hidden]` in f32, for merging.
    pub fn fold(&self, table: Tensor<2>) -> Tensor<2> {
        match self {
            EmbeddingDelta::Lora(lora) => lora.fold(table),
        }
    }
}
