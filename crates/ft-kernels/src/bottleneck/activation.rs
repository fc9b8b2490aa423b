//! The activations inside a bottleneck: its width is small, so that compositions of Burn's operations serve every backend.
use super::BottleneckOps;
use crate::portable::Val;
use burn::backend::Scalar;
use burn::backend::tensor::FloatTensor;

/// What stands between the two products of [`super::bottleneck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonLinearity {
    /// max(z, 0)
    Relu,
    /// z where positive, else z / 100
    LeakyRelu,
    /// z · sigmoid(z)
    Silu,
    /// z · Φ(z)
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// tanh(z)
    Tanh,
    /// 1 / (1 + e⁻ᶻ)
    Sigmoid,
}

const LEAK: f64 = 0.01;

pub(super) fn apply<B: BottleneckOps>(a: NonLinearity, z: FloatTensor<B>) -> FloatTensor<B> {
    match a {
        NonLinearity::Relu => B::relu(z),
        NonLinearity::LeakyRelu => B::leaky_relu(z, Scalar::from(LEAK)),
        NonLinearity::Silu => (Val::<B>(z.clone()) * Val(B::sigmoid(z))).0,
        NonLinearity::Gelu => B::gelu(z),
        NonLinearity::GeluTanh => B::gelu_new(z),
        NonLinearity::Tanh => B::float_tanh(z),
        NonLinearity::Sigmoid => B::sigmoid(z),
    }
}

/// `da · a'(z)`.
pub(super) fn gradient<B: BottleneckOps>(a: NonLinearity, z: FloatTensor<B>, da: FloatTensor<B>) -> FloatTensor<B> {
    let rest = |s: &Val<B>| s.clone().scale(-1.0).shift(1.0);
    match a {
        NonLinearity::Relu => B::relu_backward(B::relu(z), da),
        NonLinearity::LeakyRelu => {
            let positive = Val::<B>(B::relu_backward(B::relu(z), da.clone()));
            (positive.scale(1.0 - LEAK) + Val(da).scale(LEAK)).0
        }
        NonLinearity::Silu => {
            let s = Val::<B>(B::sigmoid(z.clone()));
            let slope = s.clone() * (Val(z) * rest(&s)).shift(1.0);
            (Val(da) * slope).0
        }
        NonLinearity::Gelu => B::gelu_backward(z, da),
        NonLinearity::GeluTanh => B::gelu_new_gradient(z, da),
        NonLinearity::Tanh => (Val::<B>(da) * rest(&Val(B::float_tanh(z)).square())).0,
        NonLinearity::Sigmoid => {
            let s = Val::<B>(B::sigmoid(z));
            (Val(da) * s.clone() * rest(&s)).0
        }
    }
}
