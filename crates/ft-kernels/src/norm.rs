//! RMSNorm and LayerNorm over the last dimension.
use burn::tensor::{FloatDType, Tensor};

/// `x / sqrt(mean(x²) + eps) · weight`, x `[.., d]`, weight `[d]`; computed in f32.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = FloatDType::from(x.dtype());
    let x = x.cast(FloatDType::F32);
    let scale = x.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt().recip();
    (x * scale * weight.cast(FloatDType::F32).unsqueeze::<D>()).cast(dtype)
}

/// `(x - mean) / sqrt(var + eps) · weight + bias`, x `[.., d]`, weight, bias `[d]`; computed in f32.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = FloatDType::from(x.dtype());
    let x = x.cast(FloatDType::F32);
    let x = x.clone() - x.mean_dim(D - 1);
    let scale = x.clone().square().mean_dim(D - 1).add_scalar(eps).sqrt().recip();
    let y = x * scale * weight.cast(FloatDType::F32).unsqueeze::<D>() + bias.cast(FloatDType::F32).unsqueeze::<D>();
    y.cast(dtype)
}
