//! The tanh approximation of GELU (`gelu_new` in transformers, <https://arxiv.org/abs/1606.08415>).
use burn::tensor::{Tensor, activation::gelu_approximate};

/// `x/2 · (1 + tanh(sqrt(2/π)·(x + 0.044715·x³)))`, element by element.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gelu_approximate(x)
}
