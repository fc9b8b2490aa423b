//! RMSNorm over the last dimension (<https://arxiv.org/abs/1910.07467>).
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "gpu")]
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

/// `x / sqrt(mean(x²) + eps) · weight`: x `[.., d]`, weight `[d]`, computed in f32 (f64 for f64).
///
/// Kept for backward: `x`. A frozen weight gets no gradient.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_eq!(
        x.dims()[D - 1],
        weight.dims()[0],
        "rms_norm: x {:?}, weight {:?}",
        x.dims(),
        weight.dims()
    );
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::scale_rms(
        x.into_dispatch(),
        weight.into_dispatch(),
        eps,
    ))
}

/// The backend operations of [`rms_norm`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait RmsNormOps: Backend {
    /// x `[.., d]`, weight `[d]` -> `[.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn scale_rms(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        portable::forward::<Self>(x, weight, eps)
    }

    /// Gradients to x and, if asked for, to the weight (in the type of x, at least f32).
    #[fusion(default)]
    fn scale_rms_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
        weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        match weight_too {
            true => {
                let (dx, dw) = Self::scale_rms_both_gradients(x, weight, dy, eps);
                (dx, Some(dw))
            }
            false => (Self::scale_rms_gradient(x, weight, dy, eps), None),
        }
    }

    /// Gradient to x alone.
    #[fusion(dtype = x, shape = x)]
    fn scale_rms_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        portable::backward::<Self>(x, weight, dy, eps, false).0
    }

    /// Gradients to x and to the weight, which is at least f32.
    #[fusion(meta = |x, weight, _dy, _eps| (x.clone(), crate::portable::widened(weight, x)))]
    fn scale_rms_both_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dx, dw) = portable::backward::<Self>(x, weight, dy, eps, true);
        (dx, dw.expect("asked for"))
    }
}

/// Compositions of Burn's operations, right on every backend and type.
mod portable {
    use crate::portable::Val;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, TensorMetadata};

    pub(super) fn forward<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        let dtype = x.dtype();
        let x = Val::<B>(x).wide();
        let weight = row(weight, &x);
        let r = inverse(&x, eps);
        (x * r * weight).cast(dtype).0
    }

    pub(super) fn backward<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        dy: FloatTensor<B>,
        eps: f64,
        weight_too: bool,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let dtype = x.dtype();
        let (x, dy) = (Val::<B>(x).wide(), Val::<B>(dy).wide());
        let weight = row(weight, &x);
        let r = inverse(&x, eps);
        let unit = x * r.clone(); // x / rms(x)
        let dw = weight_too.then(|| (dy.clone() * unit.clone()).sum_rows().0);
        let g = dy * weight;
        let along = (g.clone() * unit.clone()).mean_last();
        (((g - unit * along) * r).cast(dtype).0, dw)
    }

    fn inverse<B: Backend>(x: &Val<B>, eps: f64) -> Val<B> {
        x.clone().square().mean_last().shift(eps).rsqrt()
    }

    /// The weight `[d]` with the type and the number of dimensions of x.
    pub(crate) fn row<B: Backend>(weight: FloatTensor<B>, x: &Val<B>) -> Val<B> {
        let mut dims = vec![1; x.dims().len()];
        dims[x.last()] = weight.shape()[0];
        Val::<B>(weight).cast(x.dtype()).reshape(&dims)
    }
}
pub(crate) use portable::row;

#[cfg(feature = "gpu")]
impl RmsNormOps for burn_cubecl::CubeBackend {
    fn scale_rms(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        match cube::rows_fit([&x, &weight]) {
            true => cube::norm(x, weight, None, eps),
            false => portable::forward::<Self>(x, weight, eps),
        }
    }

    fn scale_rms_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        match cube::rows_fit([&x, &weight, &dy]) {
            true => cube::norm_gradients(x, weight, dy, None, eps, false, false).0,
            false => portable::backward::<Self>(x, weight, dy, eps, false).0,
        }
    }

    fn scale_rms_both_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape = weight.shape();
        let (dx, dw) = match cube::rows_fit([&x, &weight, &dy]) {
            true => cube::norm_gradients(x, weight, dy, None, eps, false, true),
            false => portable::backward::<Self>(x, weight, dy, eps, true),
        };
        (dx, Self::float_reshape(dw.expect("asked for"), shape))
    }
}

#[cfg(feature = "flex")]
impl RmsNormOps for burn::backend::Flex {
    fn scale_rms(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&x]) {
            true => cpu::norm::rms(x, &cpu::flex::vector(weight), eps as f32),
            false => portable::forward::<Self>(x, weight, eps),
        }
    }

    fn scale_rms_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
        weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        match cpu::flex::all_f32([&x, &dy]) {
            true => cpu::norm::rms_backward(x, &cpu::flex::vector(weight), dy, eps as f32, weight_too),
            false => portable::backward::<Self>(x, weight, dy, eps, weight_too),
        }
    }
}

impl<B: RmsNormOps, C: CheckpointStrategy> RmsNormOps for Autodiff<B, C> {
    fn scale_rms(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let (weight_too, dtype) = (weight.is_tracked(), weight.dtype());
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        match RmsNorm.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let kept = Kept {
                    x: x.clone(),
                    weight: weight.clone(),
                    eps,
                    weight_too,
                    dtype,
                };
                prep.finish(kept, B::scale_rms(x, weight, eps))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::scale_rms(x, weight, eps)),
        }
    }

    fn scale_rms_gradients(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _dy: FloatTensor<Self>,
        _eps: f64,
        _weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        once("rms_norm")
    }
}

#[derive(Debug)]
struct RmsNorm;

#[derive(Debug, Clone)]
struct Kept<T> {
    x: T,
    weight: T,
    eps: f64,
    weight_too: bool,
    dtype: DType,
}

impl<B: RmsNormOps> Backward<B, 2> for RmsNorm {
    type State = Kept<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept {
            x,
            weight,
            eps,
            weight_too,
            dtype,
        } = ops.state;
        let (dx, dw) = B::scale_rms_gradients(x, weight, dy, eps, weight_too);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        if let (Some(node), Some(dw)) = (weight_node, dw) {
            grads.register::<B>(node.id, Val::<B>(dw).cast(dtype).0);
        }
    }
}
