//! The gated activation of Llama's feed-forward block (<https://arxiv.org/abs/2002.05202>).
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::{as_type_of, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// `silu(gate) · up`, element by element, in the type of `gate`. Kept for backward: the two inputs.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up");
    let up = as_type_of(&gate, up);
    Tensor::from_dispatch(<Dispatch as SwigluOps>::silu_times(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}

/// The backend operations of [`swiglu`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait SwigluOps: Backend {
    /// `silu(gate) · up`.
    #[fusion(dtype = gate, shape = gate)]
    fn silu_times(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::forward::<Self>(gate, up)
    }

    /// Gradients to gate and up.
    #[fusion(meta = |gate, _up, _dy| (gate.clone(), gate.clone()))]
    fn silu_times_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::backward::<Self>(gate, up, dy)
    }
}

/// Compositions of Burn's operations, right on every backend and type.
mod portable {
    use crate::portable::Val;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, TensorMetadata};

    pub(super) fn forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        let dtype = gate.dtype();
        let (gate, up) = (Val::<B>(gate).wide(), Val::<B>(up).wide());
        (gate.clone().sigmoid() * gate * up).cast(dtype).0
    }

    pub(super) fn backward<B: Backend>(
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        dy: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let dtype = gate.dtype();
        let (gate, up, dy) = (Val::<B>(gate).wide(), Val::<B>(up).wide(), Val::<B>(dy).wide());
        let s = gate.clone().sigmoid();
        let silu = gate.clone() * s.clone();
        let slope = s.clone() + silu.clone() - silu.clone() * s; // s · (1 + gate · (1 - s))
        ((dy.clone() * up * slope).cast(dtype).0, (dy * silu).cast(dtype).0)
    }
}

#[cfg(feature = "gpu")]
impl SwigluOps for burn_cubecl::CubeBackend {
    fn silu_times(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match cube::alike([&gate, &up]) {
            true => cube::swiglu(gate, up),
            false => portable::forward::<Self>(gate, up),
        }
    }

    fn silu_times_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cube::alike([&gate, &up, &dy]) {
            true => cube::swiglu_gradients(gate, up, dy),
            false => portable::backward::<Self>(gate, up, dy),
        }
    }
}

#[cfg(feature = "flex")]
impl SwigluOps for burn::backend::Flex {
    fn silu_times(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&gate, &up]) {
            true => cpu::pointwise::swiglu(gate, up),
            false => portable::forward::<Self>(gate, up),
        }
    }

    fn silu_times_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cpu::flex::all_f32([&gate, &up, &dy]) {
            true => cpu::pointwise::swiglu_backward(gate, up, dy),
            false => portable::backward::<Self>(gate, up, dy),
        }
    }
}

impl<B: SwigluOps, C: CheckpointStrategy> SwigluOps for Autodiff<B, C> {
    fn silu_times(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match Swiglu.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone()), B::silu_times(gate, up)),
            OpsKind::UnTracked(prep) => prep.finish(B::silu_times(gate, up)),
        }
    }

    fn silu_times_gradients(
        _gate: FloatTensor<Self>,
        _up: FloatTensor<Self>,
        _dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        once("swiglu")
    }
}

#[derive(Debug)]
struct Swiglu;

impl<B: SwigluOps> Backward<B, 2> for Swiglu {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [gate_node, up_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (to_gate, to_up) = B::silu_times_gradients(gate, up, dy);
        for (node, gradient) in [(gate_node, to_gate), (up_node, to_up)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
