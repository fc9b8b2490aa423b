//! What is kept for backward: see [`super::attention`].
use super::{AttentionOps, First, Scale, Span};
use crate::portable::once;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: Scale,
    ) -> FloatTensor<Self> {
        let first = first.inner();
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        match Attention
            .prepare::<C>([q_node, k_node, v_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (kept, out) = Kept::forward([q, k, v], first, span, scale);
                prep.finish(kept, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::attend(q, k, v, first, span, scale)),
        }
    }

    fn attend_with_lse(
        _q: FloatTensor<Self>,
        _k: FloatTensor<Self>,
        _v: FloatTensor<Self>,
        _first: First<Self>,
        _span: Span,
        _scale: Scale,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        once("attention")
    }

    fn attend_gradients(
        _q: FloatTensor<Self>,
        _k: FloatTensor<Self>,
        _v: FloatTensor<Self>,
        _out: FloatTensor<Self>,
        _lse: FloatTensor<Self>,
        _dout: FloatTensor<Self>,
        _first: First<Self>,
        _span: Span,
        _scale: Scale,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        once("attention")
    }
}

#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
pub(super) struct Kept<B: Backend> {
    inputs: [FloatTensor<B>; 3],
    pub(super) out: FloatTensor<B>,
    pub(super) lse: FloatTensor<B>,
    first: First<B>,
    span: Span,
    scale: Scale,
}

impl<B: Backend, C: CheckpointStrategy> First<Autodiff<B, C>> {
    pub(super) fn inner(self) -> First<B> {
        match self {
            First::Start => First::Start,
            First::At(columns) => First::At(columns),
            First::Between(columns) => First::Between(columns),
        }
    }
}

impl<B: AttentionOps> Kept<B> {
    /// The output `[b, s, hq, d]` from q, k and v, and what its gradients need.
    pub(super) fn forward(
        inputs: [FloatTensor<B>; 3],
        first: First<B>,
        span: Span,
        scale: Scale,
    ) -> (Self, FloatTensor<B>) {
        let [q, k, v] = inputs.clone();
        let (out, lse) = B::attend_with_lse(q, k, v, first.clone(), span, scale);
        let kept = Self {
            inputs,
            out: out.clone(),
            lse,
            first,
            span,
            scale,
        };
        (kept, out)
    }

    /// Gradients to q, k and v.
    pub(super) fn gradients(self, dout: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let [q, k, v] = self.inputs;
        B::attend_gradients(q, k, v, self.out, self.lse, dout, self.first, self.span, self.scale)
    }
}

impl<B: AttentionOps> Backward<B, 3> for Attention {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [q_node, k_node, v_node] = ops.parents;
        let dout = grads.consume::<B>(&ops.node);
        let (dq, dk, dv) = ops.state.gradients(dout);
        for (node, gradient) in [(q_node, dq), (k_node, dk), (v_node, dv)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
