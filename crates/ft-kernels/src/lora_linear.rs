//! A linear layer with a low-rank update (LoRA, <https://arxiv.org/abs/2106.09685>).
use crate::linear;
use burn::tensor::Tensor;

/// `x·Wᵀ + scale·(x·Aᵀ)·Bᵀ`: x `[.., in]`, w `[out, in]`, a `[r, in]`, b `[out, r]` -> `[.., out]`.
pub fn lora_linear<const D: usize>(x: Tensor<D>, w: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<D> {
    linear(x.clone(), w) + linear(linear(x, a), b).mul_scalar(scale)
}
