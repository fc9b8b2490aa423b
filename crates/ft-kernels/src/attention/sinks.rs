//! Attention beside sinks: a score z of each head that takes its share of the probability (Agarwal et al. 2025, arXiv:2508.10925).
//!
//! ```text
//! out, lse   without them                    lse' = ln(exp(lse) + exp(z))     out' = exp(lse - lse') · out
//! dq, dk, dv as without them, of out', lse'  dz = -Σ exp(z - lse') · (dO · O')
//! ```
//! The kernels know nothing of them.
use super::backward::Kept;
use super::{AttentionOps, First, Scale, Span};
#[cfg(feature = "flex")]
use crate::cpu;
use crate::portable::Val;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Scalar, TensorMetadata, backend_extension};
use burn::tensor::DType;

/// The backend operation of [`attention`](super::attention) where a [`Scoring`](super::Scoring) has sinks.
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait SinkOps: AttentionOps {
    /// The output `[b, s, hq, d]`; sinks `[hq]`.
    #[fusion(default)]
    fn attend_beside(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        #[extension_type] first: First<Self>,
        span: Span,
        scale: Scale,
    ) -> FloatTensor<Self> {
        let (out, lse) = Self::attend_with_lse(q, k, v, first, span, scale);
        beside::<Self>(out, lse, sinks).0
    }
}

#[cfg(feature = "gpu")]
impl SinkOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl SinkOps for burn::backend::Flex {
    fn attend_beside(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: Scale,
    ) -> FloatTensor<Self> {
        let few = cpu::attention::few(q.shape()[1]);
        if few && cpu::flex::all_f32([&q, &k, &v]) {
            let sinks = cpu::flex::contiguous(cpu::flex::vector(sinks));
            let sinks = cpu::flex::values(&sinks);
            return cpu::attention::output(q, k, v, Some(sinks), first, span, scale);
        }
        let (out, lse) = Self::attend_with_lse(q, k, v, first, span, scale);
        beside::<Self>(out, lse, sinks).0
    }
}

/// The output and the logarithms `[b, s, hq]` beside sinks `[hq]`.
fn beside<B: Backend>(
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    sinks: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (out, lse) = (Val::<B>(out), Val::<B>(lse));
    let [b, s, hq, _] = out.0.shape().dims();
    let sinks = Val::<B>(sinks).cast(lse.dtype()).reshape(&[1, 1, hq]);
    // Of a query that sees nothing, the logarithm is minus infinity.
    let lse = Val::<B>(B::float_clamp_min(lse.0, Scalar::from(-NOTHING)));
    let apart = Val::<B>(B::float_abs((lse.clone() - sinks.clone()).0));
    let max = (lse.clone() + sinks.clone() + apart).scale(0.5);
    let sum = (lse.clone() - max.clone()).exp() + (sinks - max.clone()).exp();
    let whole = max + Val(B::float_log(sum.0));
    let share = (lse - whole.clone()).exp().cast(out.dtype()).reshape(&[b, s, hq, 1]);
    ((out * share).0, whole.0)
}

/// Beyond any score.
const NOTHING: f64 = 1e30;

impl<B: SinkOps, C: CheckpointStrategy> SinkOps for Autodiff<B, C> {
    fn attend_beside(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        sinks: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: Scale,
    ) -> FloatTensor<Self> {
        let first = first.inner();
        let (learns, dtype) = (sinks.is_tracked(), sinks.dtype());
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (sinks, sinks_node) = sinks.into_parts();
        match Beside
            .prepare::<C>([q_node, k_node, v_node, sinks_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (mut kept, out) = Kept::forward([q, k, v], first, span, scale);
                (kept.out, kept.lse) = beside::<B>(out, kept.lse, sinks.clone());
                let out = kept.out.clone();
                prep.finish((kept, learns.then_some((sinks, dtype))), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::attend_beside(q, k, v, sinks, first, span, scale)),
        }
    }
}

#[derive(Debug)]
struct Beside;

impl<B: SinkOps> Backward<B, 4> for Beside {
    /// What attention keeps, and the sinks where they learn, with their type.
    type State = (Kept<B>, Option<(FloatTensor<B>, DType)>);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [q_node, k_node, v_node, sinks_node] = ops.parents;
        let (kept, sinks) = ops.state;
        let dout = grads.consume::<B>(&ops.node);
        if let (Some(node), Some((sinks, dtype))) = (sinks_node, sinks) {
            let to_sinks = to_sinks::<B>(sinks, kept.lse.clone(), kept.out.clone(), dout.clone());
            grads.register::<B>(node.id, Val::<B>(to_sinks).cast(dtype).0);
        }
        let (dq, dk, dv) = kept.gradients(dout);
        for (node, gradient) in [(q_node, dq), (k_node, dk), (v_node, dv)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// `-Σ exp(z - lse) · (dO · O)` over rows, `[hq]`.
fn to_sinks<B: Backend>(
    sinks: FloatTensor<B>,
    lse: FloatTensor<B>,
    out: FloatTensor<B>,
    dout: FloatTensor<B>,
) -> FloatTensor<B> {
    let lse = Val::<B>(lse);
    let [b, s, hq] = lse.0.shape().dims();
    let along = (Val::<B>(out).wide() * Val::<B>(dout).wide())
        .sum_last()
        .reshape(&[b * s, hq]);
    let sinks = Val::<B>(sinks).cast(lse.dtype()).reshape(&[1, hq]);
    let share = (sinks - lse.reshape(&[b * s, hq])).exp();
    (share * along).sum_rows().scale(-1.0).0
}
