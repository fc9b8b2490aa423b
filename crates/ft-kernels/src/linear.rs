//! `x · Wᵀ` with the weight in Hugging Face's `[out, in]` layout.
use burn::tensor::Tensor;

/// `x · Wᵀ`: x `[.., in]`, w `[out, in]` -> `[.., out]`. A weight of another dtype is cast to that of `x`.
pub fn linear<const D: usize>(x: Tensor<D>, w: Tensor<2>) -> Tensor<D> {
    let w = if w.dtype() == x.dtype() {
        w
    } else {
        w.cast(burn::tensor::FloatDType::from(x.dtype()))
    };
    burn::tensor::module::linear(x, w.swap_dims(0, 1), None)
}
