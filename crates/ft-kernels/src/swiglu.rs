//! The gated activation of Llama's feed-forward block (<https://arxiv.org/abs/2002.05202>).
use burn::tensor::{Tensor, activation::silu};

/// `silu(gate) · up`, element by element.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}
