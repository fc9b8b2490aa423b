//! How a decoder block of Llama's kind computes, beside its sizes: what a family says in `config.json`, as a value. One piece of code
//! (`families/llama.rs`) computes all of them.

use crate::rope::Rope;

/// The parts in which the families differ. The default is Llama's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Where normalizations stand.
    pub norms: Norms,
    /// Whether normalizations multiply by one more than their weight (Gemma).
    pub norms_count_from_one: bool,
    /// Normalization of queries and keys.
    pub qk_norm: QkNorm,
    /// The activation of the gate.
    pub activation: Activation,
    /// Whether queries, keys and values are one matrix (`qkv_proj`), and gate and up too (`gate_up_proj`).
    pub fused: bool,
    /// Factor of queries times keys, where it is not 1/√head_dim.
    pub attention_scale: Option<f64>,
    /// Rotary embedding of the layers with a sliding window, where they have one of their own.
    pub local_rope: Option<Rope>,
    /// Whether each layer has rotary embedding; all have where this is empty.
    pub rotates: Vec<bool>,
    /// Factor of the embeddings of tokens, virtual tokens left out.
    pub token_scale: Option<f64>,
    /// Factor of the first block's input.
    pub input_scale: Option<f64>,
    /// Factor of what a sub-layer adds to the residual stream.
    pub residual_scale: Option<f64>,
    /// Factor of the last hidden states, and with them of the logits.
    pub output_scale: Option<f64>,
}

/// Where the normalizations of a block stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norms {
    /// Before attention and MLP.
    #[default]
    Before,
    /// After both.
    After,
    /// Before and after both.
    Around,
}

/// Over what queries and keys are normalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorm {
    /// They are not.
    #[default]
    None,
    /// Each head by itself.
    Heads,
    /// All heads together.
    Whole,
}

/// Of the gate in the MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    #[default]
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

impl Block {
    /// Whether layer `index` has rotary embedding.
    pub(crate) fn rotates(&self, index: usize) -> bool {
        self.rotates.get(index).copied().unwrap_or(true)
    }
}
