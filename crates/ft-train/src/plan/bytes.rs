//! Where the memory of a run goes, by formula.
//!
//! Weights, adapters, gradients and optimizer states are exact counts. Activations and logits are what the forward pass of
//! a decoder block keeps for its backward pass, counted tensor by tensor below; the allocator's own waste and the
//! program itself are not in it.

use ft_model::ModelConfig;
use serde::Serialize;

/// Bytes by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The base model's tensors.
    pub weights: u64,
    /// Tensors that the method adds.
    pub adapters: u64,
    /// One gradient per trainable number, two while an accumulation adds one to another.
    pub gradients: u64,
    /// The optimizer's states.
    pub optimizer: u64,
    /// What the blocks keep for the backward pass, at the largest micro-batch.
    pub activations: u64,
    /// Logits and their gradient, one chunk of positions at a time.
    pub logits: u64,
}

impl Bytes {
    /// All parts together.
    pub fn total(&self) -> u64 {
        self.weights + self.adapters + self.gradients + self.optimizer + self.activations + self.logits
    }

    /// Name and bytes of every part.
    pub fn parts(&self) -> [(&'static str, u64); 6] {
        [
            ("weights", self.weights),
            ("adapters", self.adapters),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
        ]
    }
}

/// f32: activations are computed in it.
const FLOAT: u64 = 4;

/// Positions whose logits exist at once.
const LOGIT_ROWS: u64 = 256;

/// Bytes that the blocks keep for `rows` samples of `width` tokens. Per token and block:
///
/// ```text
/// norm       x, normalized x                     2 · hidden, twice
/// attention  q, k, v, output, log-sum-exp        (2 q + 2 kv) · head_dim + heads
/// MLP        gate, up, their product             3 · ffn
/// ```
///
/// A projection's input is one of these already, so it adds nothing. `extra` is what the method keeps, numbers per token.
pub fn activations(model: &ModelConfig, extra: u64, rows: usize, width: usize) -> u64 {
    let (hidden, ffn) = (model.hidden_size as u64, model.intermediate_size as u64);
    let (heads, kv) = (model.num_attention_heads as u64, model.num_key_value_heads as u64);
    let attention = (2 * heads + 2 * kv) * model.head_dim as u64 + heads;
    let block = 4 * hidden + attention + 3 * ffn;
    let tokens = (rows * width) as u64;
    // The embedding's output, the final norm's two, and the gradient that travels back through one block.
    let around = 3 * hidden + block;
    FLOAT * tokens * (model.num_hidden_layers as u64 * block + around + extra)
}

/// Bytes of the keys and values of a prefix of `tokens`, which every row of every block gets a copy of.
pub fn prefixes(model: &ModelConfig, rows: usize, tokens: usize) -> u64 {
    let width = 2 * model.num_key_value_heads * model.head_dim;
    FLOAT * (rows * tokens * width * model.num_hidden_layers) as u64
}

/// Bytes of one chunk of logits and its gradient, for `rows` samples of `width` tokens.
pub fn logits(model: &ModelConfig, rows: usize, width: usize) -> u64 {
    let chunk = LOGIT_ROWS.min((rows * width) as u64);
    2 * FLOAT * chunk * model.vocab_size as u64
}
