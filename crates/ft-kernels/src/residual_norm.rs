//! Where the residual stream is normalized for the next sub-layer: RMSNorm and the sum before it, and the stream itself beside it.
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::{Val, once};
use crate::rms_norm::RmsNormOps;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "gpu")]
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `h = x + added` and `rms_norm(h)`: x and added `[.., d]` in one type, weight `[d]`.
///
/// The same numbers as the two operations by themselves. On graphics cards forward is one launch, and backward adds the gradient
/// that reaches h otherwise in the launch for the norm. Kept for backward: h.
pub fn residual_norm<const D: usize>(
    x: Tensor<D>,
    added: Option<Tensor<D>>,
    weight: Tensor<1>,
    eps: f64,
) -> (Tensor<D>, Tensor<D>) {
    assert!(
        x.dims()[D - 1] == weight.dims()[0]
            && added
                .as_ref()
                .is_none_or(|added| added.dims() == x.dims() && added.dtype() == x.dtype()),
        "residual_norm: x {:?}, added {:?}, weight {:?}",
        x.dims(),
        added.as_ref().map(Tensor::dims),
        weight.dims()
    );
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (h, y) = match added {
        Some(added) => <Dispatch as ResidualNormOps>::join_norm(x, added.into_dispatch(), weight, eps),
        None => <Dispatch as ResidualNormOps>::beside_norm(x, weight, eps),
    };
    (Tensor::from_dispatch(h), Tensor::from_dispatch(y))
}

/// The backend operations of [`residual_norm`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait ResidualNormOps: RmsNormOps {
    /// The sum of x and added `[.., d]`, and its norm.
    #[fusion(meta = |x, _added, _weight, _eps| (x.clone(), x.clone()))]
    fn join_norm(
        x: FloatTensor<Self>,
        added: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(x, added, weight, eps)
    }

    /// x itself and its norm.
    #[fusion(default)]
    fn beside_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (x.clone(), Self::scale_rms(x, weight, eps))
    }

    /// [`scale_rms_gradients`](RmsNormOps::scale_rms_gradients), the one to x added to `other`.
    #[fusion(default)]
    fn add_norm_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: FloatTensor<Self>,
        eps: f64,
        weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        match weight_too {
            true => {
                let (dx, dw) = Self::add_norm_both_gradients(x, weight, dy, other, eps);
                (dx, Some(dw))
            }
            false => (Self::add_norm_gradient(x, weight, dy, other, eps), None),
        }
    }

    /// The gradient to x alone, added to `other`.
    #[fusion(dtype = x, shape = x)]
    fn add_norm_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        Self::float_add(Self::scale_rms_gradients(x, weight, dy, eps, false).0, other)
    }

    /// That and the gradient to the weight, which is at least f32.
    #[fusion(meta = |x, weight, _dy, _other, _eps| (x.clone(), crate::portable::widened(weight, x)))]
    fn add_norm_both_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dx, dw) = Self::scale_rms_gradients(x, weight, dy, eps, true);
        (Self::float_add(dx, other), dw.expect("asked for"))
    }
}

fn portable<B: RmsNormOps>(
    x: FloatTensor<B>,
    added: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let h = B::float_add(x, added);
    (h.clone(), B::scale_rms(h, weight, eps))
}

#[cfg(feature = "gpu")]
impl ResidualNormOps for burn_cubecl::CubeBackend {
    fn join_norm(
        x: FloatTensor<Self>,
        added: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cube::alike([&x, &added]) && cube::rows_fit([&weight]) {
            true => cube::add_norm(x, added, weight, eps),
            false => portable::<Self>(x, added, weight, eps),
        }
    }

    fn add_norm_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        match cube::alike([&x, &other]) && cube::rows_fit([&weight, &dy]) {
            true => cube::norm_gradients(x, weight, dy, Some(other), eps, false, false).0,
            false => Self::float_add(Self::scale_rms_gradient(x, weight, dy, eps), other),
        }
    }

    fn add_norm_both_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !(cube::alike([&x, &other]) && cube::rows_fit([&weight, &dy])) {
            let (dx, dw) = Self::scale_rms_both_gradients(x, weight, dy, eps);
            return (Self::float_add(dx, other), dw);
        }
        let shape = weight.shape();
        let (dx, dw) = cube::norm_gradients(x, weight, dy, Some(other), eps, false, true);
        (dx, Self::float_reshape(dw.expect("asked for"), shape))
    }
}

#[cfg(feature = "flex")]
impl ResidualNormOps for burn::backend::Flex {}

impl<B: ResidualNormOps, C: CheckpointStrategy> ResidualNormOps for Autodiff<B, C> {
    fn join_norm(
        x: FloatTensor<Self>,
        added: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ((x, x_node), (added, added_node)) = (x.into_parts(), added.into_parts());
        let (h, y) = B::join_norm(x, added, weight.primitive().clone(), eps);
        let h = Join.prepare::<C>([x_node, added_node]).compute_bound().stateless(h);
        apart::<B, C>(h, y, weight, eps)
    }

    fn beside_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, node) = x.into_parts();
        let y = B::scale_rms(x.clone(), weight.primitive().clone(), eps);
        // A node that nothing but the norm and the stream hangs on.
        let h = Pass(None).prepare::<C>([node]).compute_bound().stateless(x);
        apart::<B, C>(h, y, weight, eps)
    }

    fn add_norm_gradients(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _dy: FloatTensor<Self>,
        _other: FloatTensor<Self>,
        _eps: f64,
        _weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        once("residual_norm")
    }
}

/// Two tensors that hang on h: h as it goes on, and its norm y, which is known.
fn apart<B: ResidualNormOps, C: CheckpointStrategy>(
    h: FloatTensor<Autodiff<B, C>>,
    y: FloatTensor<B>,
    weight: FloatTensor<Autodiff<B, C>>,
    eps: f64,
) -> (FloatTensor<Autodiff<B, C>>, FloatTensor<Autodiff<B, C>>) {
    let (weight_too, dtype) = (weight.is_tracked(), weight.dtype());
    let passed = Arc::new(AtomicBool::new(false));
    let beside = h.node();
    let ((h, node), (weight, weight_node)) = (h.into_parts(), weight.into_parts());
    let kept = Kept {
        h: h.clone(),
        weight,
        eps,
        weight_too,
        dtype,
        passed: passed.clone(),
    };
    let y = match Norm.prepare::<C>([beside, weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(kept, y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    let h = Pass(Some(passed)).prepare::<C>([node]).compute_bound().stateless(h);
    (h, y)
}

/// `x + added`.
#[derive(Debug)]
struct Join;

impl<B: Backend> Backward<B, 2> for Join {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dh = grads.consume::<B>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<B>(node.id, dh.clone());
        }
    }
}

/// The same tensor; notes that its gradient went by.
#[derive(Debug)]
struct Pass(Option<Arc<AtomicBool>>);

impl<B: Backend> Backward<B, 1> for Pass {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dh = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, dh);
            if let Some(passed) = self.0 {
                passed.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[derive(Debug)]
struct Norm;

#[derive(Debug, Clone)]
struct Kept<T> {
    h: T,
    weight: T,
    eps: f64,
    weight_too: bool,
    dtype: DType,
    /// Whether h has the gradient of all but the norm.
    passed: Arc<AtomicBool>,
}

impl<B: ResidualNormOps> Backward<B, 2> for Norm {
    type State = Kept<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node, weight_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept { h, weight, eps, .. } = ops.state;
        // The gradient that is there is taken out, and the sum put in its place.
        let other = node
            .as_ref()
            .filter(|_| ops.state.passed.swap(false, Ordering::Relaxed));
        let (dh, dw) = match other.map(|node| grads.consume::<B>(node)) {
            Some(other) => B::add_norm_gradients(h, weight, dy, other, eps, ops.state.weight_too),
            None => B::scale_rms_gradients(h, weight, dy, eps, ops.state.weight_too),
        };
        if let Some(node) = node {
            grads.register::<B>(node.id, dh);
        }
        if let (Some(node), Some(dw)) = (weight_node, dw) {
            grads.register::<B>(node.id, Val::<B>(dw).cast(ops.state.dtype).0);
        }
    }
}
