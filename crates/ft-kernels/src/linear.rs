//! `x · Wᵀ` with the weight in Hugging Face's `[out, in]` layout.
#[cfg(feature = "flex")]
use crate::cpu;
use crate::output::Output;
use crate::portable::Val;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

/// `x · Wᵀ`: x `[.., in]`, w `[out, in]` -> `[.., out]` in the type of `x`.
///
/// A frozen weight gets no gradient and no copy of it or of `x` is kept for one. A weight stored in another type than
/// `x` is widened: on the CPU while it is read, elsewhere by a cast.
pub fn linear<const D: usize>(x: Tensor<D>, w: Tensor<2>) -> Tensor<D> {
    linear_for(x, w, Output::Read)
}

/// [`linear`], whose output may be [unread](Output::Unread).
pub fn linear_for<const D: usize>(x: Tensor<D>, w: Tensor<2>, output: Output) -> Tensor<D> {
    assert_eq!(
        x.dims()[D - 1],
        w.dims()[1],
        "linear: x {:?} and weight {:?} [out, in]",
        x.dims(),
        w.dims()
    );
    let y = <burn::backend::Dispatch as LinearOps>::project_for(x.into_dispatch(), w.into_dispatch(), output);
    Tensor::from_dispatch(y)
}

/// The backend operations of [`linear`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait LinearOps: Backend {
    /// x `[.., in]`, w `[out, in]` -> `[.., out]`.
    #[fusion(default)]
    fn project(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::project::<Self>(x, w)
    }

    /// [`project`](Self::project), or zeros.
    #[fusion(default)]
    fn project_for(x: FloatTensor<Self>, w: FloatTensor<Self>, output: Output) -> FloatTensor<Self> {
        let out = w.shape()[0];
        output.of::<Self>(x, out, |x| Self::project(x, w))
    }

    /// Gradient to x: dy `[.., out]`, w `[out, in]` -> `[.., in]`.
    #[fusion(default)]
    fn project_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::input_gradient::<Self>(dy, w)
    }

    /// Gradient to the weight, `scale · dyᵀ · x`: dy `[.., out]`, x `[.., in]` -> `[out, in]`.
    #[fusion(default)]
    fn project_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        portable::weight_gradient::<Self>(dy, x, scale)
    }
}

/// Compositions of Burn's operations, right on every backend and type.
pub(crate) mod portable {
    use super::{Backend, FloatTensor, Val};

    pub(crate) fn project<B: Backend>(x: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
        times::<B>(x, Val::<B>(w).t())
    }

    pub(crate) fn input_gradient<B: Backend>(dy: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
        times::<B>(dy, Val(w))
    }

    pub(crate) fn weight_gradient<B: Backend>(dy: FloatTensor<B>, x: FloatTensor<B>, scale: f64) -> FloatTensor<B> {
        let product = Val::<B>(dy).rows().t().matmul(Val(x).rows());
        if scale == 1.0 {
            product.0
        } else {
            product.scale(scale).0
        }
    }

    /// x `[.., k]` times a matrix `[k, n]`.
    fn times<B: Backend>(x: FloatTensor<B>, w: Val<B>) -> FloatTensor<B> {
        let (x, n) = (Val::<B>(x), w.dims()[1]);
        let mut dims = x.dims();
        *dims.last_mut().expect("at least one dimension") = n;
        let w = w.cast(x.dtype());
        x.rows().matmul(w).reshape(&dims).0
    }
}

#[cfg(feature = "gpu")]
impl LinearOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl LinearOps for burn::backend::Flex {
    fn project(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        match fused(&x, &w) {
            true => cpu::linear::forward(x, &w, None),
            false => portable::project::<Self>(x, w),
        }
    }

    fn project_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        match fused(&dy, &w) {
            true => cpu::linear::input_gradient(&cpu::flex::contiguous(dy), &w, None),
            false => portable::input_gradient::<Self>(dy, w),
        }
    }

    fn project_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&dy, &x]) {
            true => cpu::linear::weight_gradient(&cpu::flex::contiguous(dy), &cpu::flex::contiguous(x), scale as f32),
            false => portable::weight_gradient::<Self>(dy, x, scale),
        }
    }
}

/// Whether the fused product takes these types and this layout of the weight.
#[cfg(feature = "flex")]
pub(crate) fn fused(x: &FloatTensor<burn::backend::Flex>, w: &FloatTensor<burn::backend::Flex>) -> bool {
    cpu::flex::all_f32([x]) && cpu::flex::matrix(w).is_some()
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn project(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::project_for(x, w, Output::Read)
    }

    fn project_for(x: FloatTensor<Self>, w: FloatTensor<Self>, output: Output) -> FloatTensor<Self> {
        let (x_tracked, w_tracked, dtype) = (x.is_tracked(), w.is_tracked(), w.dtype());
        let ((x, x_node), (w, w_node)) = (x.into_parts(), w.into_parts());
        match Project.prepare::<C>([x_node, w_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = Kept {
                    x: w_tracked.then(|| x.clone()),
                    w: x_tracked.then(|| w.clone()),
                    dtype,
                };
                prep.finish(state, B::project_for(x, w, output))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::project_for(x, w, output)),
        }
    }

    fn project_input_gradient(_dy: FloatTensor<Self>, _w: FloatTensor<Self>) -> FloatTensor<Self> {
        crate::portable::once("linear")
    }

    fn project_weight_gradient(_dy: FloatTensor<Self>, _x: FloatTensor<Self>, _scale: f64) -> FloatTensor<Self> {
        crate::portable::once("linear")
    }
}

#[derive(Debug)]
struct Project;

/// x is kept only for the weight's gradient, and the weight only for that of x.
#[derive(Debug, Clone)]
struct Kept<T> {
    x: Option<T>,
    w: Option<T>,
    dtype: DType,
}

impl<B: LinearOps> Backward<B, 2> for Project {
    type State = Kept<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, w_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        if let (Some(node), Some(x)) = (w_node, ops.state.x) {
            let dw = B::project_weight_gradient(dy.clone(), x, 1.0);
            grads.register::<B>(node.id, Val::<B>(dw).cast(ops.state.dtype).0);
        }
        if let (Some(node), Some(w)) = (x_node, ops.state.w) {
            grads.register::<B>(node.id, B::project_input_gradient(dy, w));
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
