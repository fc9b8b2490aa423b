//! The gated activation of gpt-oss (Agarwal et al. 2025, arXiv:2508.10925): SwiGLU with bounds, of gates and ups that alternate.
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
use crate::portable::{Val, once, with_last};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Scalar, TensorMetadata, backend_extension, get_device_settings};
use burn::tensor::Tensor;

/// The constants of [`clamped_swiglu`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// Factor of the gate inside the sigmoid.
    pub alpha: f64,
    /// Largest gate, and largest size of up.
    pub limit: f64,
}

/// `(up + 1) · gate · sigmoid(alpha · gate)` with `gate <= limit` and `-limit <= up <= limit`: x `[.., 2n]`, whose even values are gates
/// and whose odd ones are ups, to `[.., n]`. Kept for backward: `x`.
///
/// # Panics
/// If the last dimension is odd.
pub fn clamped_swiglu<const D: usize>(x: Tensor<D>, clamp: Clamp) -> Tensor<D> {
    assert!(x.dims()[D - 1].is_multiple_of(2), "clamped_swiglu: {:?}", x.dims());
    Tensor::from_dispatch(<Dispatch as ClampedSwigluOps>::gated(x.into_dispatch(), clamp))
}

/// The backend operations of [`clamped_swiglu`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait ClampedSwigluOps: Backend {
    /// The activation.
    #[fusion(default)]
    fn gated(x: FloatTensor<Self>, clamp: Clamp) -> FloatTensor<Self> {
        portable_forward::<Self>(x, clamp)
    }

    /// The gradient to x.
    #[fusion(default)]
    fn gated_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>, clamp: Clamp) -> FloatTensor<Self> {
        portable_backward::<Self>(x, dy, clamp)
    }
}

/// Gates and ups `[rows, n]`, bounded, and 1 where the bound does not act, else 0.
struct Parts<B: Backend> {
    values: [Val<B>; 2],
    free: [Val<B>; 2],
}

impl<B: Backend> Parts<B> {
    fn new(x: FloatTensor<B>, limit: f64) -> Self {
        let x = Val::<B>(x).wide();
        let dims = x.dims();
        let width = dims[dims.len() - 1] / 2;
        let rows = dims[..dims.len() - 1].iter().product::<usize>();
        let pairs = x.reshape(&[rows, width, 2]);
        let part = |number: usize| pairs.clone().narrow(2, number, 1).reshape(&[rows, width]);
        let bools = get_device_settings::<B>(&pairs.0.device()).bool_dtype;
        let bounded = |part: Val<B>, low: Option<f64>| {
            let dtype = part.dtype().into();
            let below = Val::<B>(B::float_clamp_max(part.0.clone(), Scalar::from(limit)));
            let free = B::float_lower_equal_elem(part.0.clone(), Scalar::from(limit), bools);
            match low {
                None => (below, Val(B::bool_into_float(free, dtype))),
                Some(low) => {
                    let above = B::float_greater_equal_elem(part.0, Scalar::from(low), bools);
                    let both = B::float_clamp_min(below.0, Scalar::from(low));
                    (Val(both), Val(B::bool_into_float(B::bool_and(free, above), dtype)))
                }
            }
        };
        let (gate, gate_free) = bounded(part(0), None);
        let (up, up_free) = bounded(part(1), Some(-limit));
        Self {
            values: [gate, up],
            free: [gate_free, up_free],
        }
    }
}

fn portable_forward<B: Backend>(x: FloatTensor<B>, clamp: Clamp) -> FloatTensor<B> {
    let (dtype, shape) = (x.dtype(), x.shape());
    let [gate, up] = Parts::<B>::new(x, clamp.limit).values;
    let width = gate.dims()[1];
    let y = gate.clone().scale(clamp.alpha).sigmoid() * gate * up.shift(1.0);
    y.cast(dtype).reshape(&with_last(&shape, width).to_vec()).0
}

fn portable_backward<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>, clamp: Clamp) -> FloatTensor<B> {
    let (dtype, shape) = (x.dtype(), x.shape());
    let Parts {
        values: [gate, up],
        free: [gate_free, up_free],
    } = Parts::<B>::new(x, clamp.limit);
    let dims = gate.dims();
    let dy = Val::<B>(dy).wide().reshape(&dims);
    let s = gate.clone().scale(clamp.alpha).sigmoid();
    let glu = gate.clone() * s.clone();
    // s + alpha · gate · s · (1 - s)
    let slope = s.clone() + (glu.clone() - glu.clone() * s).scale(clamp.alpha);
    let to_gate = dy.clone() * up.shift(1.0) * slope * gate_free;
    let to_up = dy * glu * up_free;
    let column = |part: Val<B>| part.reshape(&[dims[0], dims[1], 1]);
    let pairs = Val::cat(vec![column(to_gate), column(to_up)], 2);
    pairs.cast(dtype).reshape(&shape.to_vec()).0
}

#[cfg(feature = "gpu")]
impl ClampedSwigluOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl ClampedSwigluOps for burn::backend::Flex {
    fn gated(x: FloatTensor<Self>, clamp: Clamp) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&x]) {
            true => cpu::clamped::forward(x, clamp),
            false => portable_forward::<Self>(x, clamp),
        }
    }

    fn gated_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>, clamp: Clamp) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&x, &dy]) {
            true => cpu::clamped::backward(x, dy, clamp),
            false => portable_backward::<Self>(x, dy, clamp),
        }
    }
}

impl<B: ClampedSwigluOps, C: CheckpointStrategy> ClampedSwigluOps for Autodiff<B, C> {
    fn gated(x: FloatTensor<Self>, clamp: Clamp) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match Gated.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), clamp), B::gated(x, clamp)),
            OpsKind::UnTracked(prep) => prep.finish(B::gated(x, clamp)),
        }
    }

    fn gated_gradient(_x: FloatTensor<Self>, _dy: FloatTensor<Self>, _clamp: Clamp) -> FloatTensor<Self> {
        once("clamped_swiglu")
    }
}

#[derive(Debug)]
struct Gated;

impl<B: ClampedSwigluOps> Backward<B, 1> for Gated {
    type State = (FloatTensor<B>, Clamp);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (x, clamp) = ops.state;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::gated_gradient(x, dy, clamp));
        }
    }
}
