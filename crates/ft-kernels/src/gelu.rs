//! The tanh approximation of GELU (`gelu_new` in transformers, <https://arxiv.org/abs/1606.08415>).
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::once;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// `x/2 · (1 + tanh(sqrt(2/π)·(x + 0.044715·x³)))`, element by element. Kept for backward: `x`.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GeluOps>::gelu_new(x.into_dispatch()))
}

/// The backend operations of [`gelu_tanh`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait GeluOps: Backend {
    /// `gelu_new(x)`.
    #[fusion(dtype = x, shape = x)]
    fn gelu_new(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::forward::<Self>(x)
    }

    /// Gradient to x.
    #[fusion(dtype = x, shape = x)]
    fn gelu_new_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::backward::<Self>(x, dy)
    }
}

/// Compositions of Burn's operations, right on every backend and type.
mod portable {
    use crate::portable::Val;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, TensorMetadata};

    /// `2·sqrt(2/π)`: `(1 + tanh(u))/2 = sigmoid(2u)`.
    const SLOPE: f64 = 2.0 * 0.797_884_560_802_865_4;
    const CUBIC: f64 = 0.044_715;

    pub(super) fn forward<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let dtype = x.dtype();
        let x = Val::<B>(x).wide();
        (gate(x.clone()) * x).cast(dtype).0
    }

    pub(super) fn backward<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
        let dtype = x.dtype();
        let (x, dy) = (Val::<B>(x).wide(), Val::<B>(dy).wide());
        let s = gate(x.clone());
        let inner = x.clone().square().scale(3.0 * CUBIC).shift(1.0).scale(SLOPE);
        let bend = x * (s.clone() - s.clone().square()) * inner;
        (dy * (s + bend)).cast(dtype).0
    }

    fn gate<B: Backend>(x: Val<B>) -> Val<B> {
        (x.clone().square().scale(CUBIC).shift(1.0) * x).scale(SLOPE).sigmoid()
    }
}

#[cfg(feature = "gpu")]
impl GeluOps for burn_cubecl::CubeBackend {
    fn gelu_new(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match cube::alike([&x]) {
            true => cube::gelu(x),
            false => portable::forward::<Self>(x),
        }
    }

    fn gelu_new_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        match cube::alike([&x, &dy]) {
            true => cube::gelu_gradient(x, dy),
            false => portable::backward::<Self>(x, dy),
        }
    }
}

#[cfg(feature = "flex")]
impl GeluOps for burn::backend::Flex {
    fn gelu_new(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if cpu::flex::all_f32([&x]) {
            cpu::pointwise::gelu(x)
        } else {
            portable::forward::<Self>(x)
        }
    }

    fn gelu_new_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&x, &dy]) {
            true => cpu::pointwise::gelu_backward(x, dy),
            false => portable::backward::<Self>(x, dy),
        }
    }
}

impl<B: GeluOps, C: CheckpointStrategy> GeluOps for Autodiff<B, C> {
    fn gelu_new(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match Gelu.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x.clone(), B::gelu_new(x)),
            OpsKind::UnTracked(prep) => prep.finish(B::gelu_new(x)),
        }
    }

    fn gelu_new_gradient(_x: FloatTensor<Self>, _dy: FloatTensor<Self>) -> FloatTensor<Self> {
        once("gelu_tanh")
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: GeluOps> Backward<B, 1> for Gelu {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::gelu_new_gradient(ops.state, dy));
        }
    }
}
