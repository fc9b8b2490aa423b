//! Rotary position embedding in the rotate-half form of Llama (<https://arxiv.org/abs/2104.09864>).
use burn::tensor::{FloatDType, Tensor};

/// Rotates the pairs `(x[i], x[i + d/2])` of every head: x `[b, s, h, d]`, cos and sin `[b or 1, s, d/2]`.
pub fn rope(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let [_, _, _, d] = x.dims();
    let dtype = FloatDType::from(x.dtype());
    let x = x.cast(FloatDType::F32);
    let (cos, sin) = (
        cos.cast(FloatDType::F32).unsqueeze_dim(2),
        sin.cast(FloatDType::F32).unsqueeze_dim(2),
    );
    let left = x.clone().narrow(3, 0, d / 2);
    let right = x.narrow(3, d / 2, d / 2);
    let first = left.clone() * cos.clone() - right.clone() * sin.clone();
    let second = right * cos + left * sin;
    Tensor::cat(vec![first, second], 3).cast(dtype)
}
