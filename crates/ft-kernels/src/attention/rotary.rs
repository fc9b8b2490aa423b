//! Attention of queries and keys that turn first: both in one launch on graphics cards, and back.
use super::backward::Kept;
use super::{AttentionOps, First, Mask, Span, attention};
use crate::rope::{RopeOps, rope};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// [`attention`] of q and k after [`rope`] by the angles of cos and sin `[b or 1, s, d/2]`: as many keys as queries.
///
/// The same numbers as the operations by themselves.
pub fn rotary_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    [cos, sin]: [Tensor<3>; 2],
    mask: &Mask,
    scale: f64,
) -> Tensor<4> {
    if [&k, &v].iter().any(|x| x.dtype() != q.dtype()) {
        let turned = |x| rope(x, cos.clone(), sin.clone());
        return attention(turned(q), turned(k), v, mask, scale);
    }
    super::check(q.dims(), &k, &v, mask);
    crate::rope::check(&q, &cos, &sin);
    crate::rope::check(&k, &cos, &sin);
    let (first, span) = mask.parts();
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    let [cos, sin] = [cos, sin].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as RotaryOps>::attend_rotated(
        q, k, v, cos, sin, first, span, scale,
    ))
}

/// The backend operation of [`rotary_attention`].
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait RotaryOps: AttentionOps + RopeOps {
    /// The output `[b, s, hq, d]`.
    #[fusion(default)]
    fn attend_rotated(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        #[extension_type] first: First<Self>,
        span: Span,
        scale: f64,
    ) -> FloatTensor<Self> {
        let (q, k) = Self::rotate_both(q, k, cos, sin, false);
        Self::attend(q, k, v, first, span, scale)
    }
}

#[cfg(feature = "gpu")]
impl RotaryOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl RotaryOps for burn::backend::Flex {}

impl<B: RotaryOps, C: CheckpointStrategy> RotaryOps for Autodiff<B, C> {
    fn attend_rotated(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: f64,
    ) -> FloatTensor<Self> {
        let first = first.inner();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (q, k) = B::rotate_both(q, k, cos.clone(), sin.clone(), false);
        match Rotary.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (kept, out) = Kept::forward([q, k, v], first, span, scale);
                prep.finish((kept, cos, sin), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::attend(q, k, v, first, span, scale)),
        }
    }
}

#[derive(Debug)]
struct Rotary;

impl<B: RotaryOps> Backward<B, 3> for Rotary {
    type State = (Kept<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [q_node, k_node, v_node] = ops.parents;
        let (kept, cos, sin) = ops.state;
        let (dq, dk, dv) = kept.gradients(grads.consume::<B>(&ops.node));
        match (q_node, k_node) {
            (Some(q_node), Some(k_node)) => {
                let (dq, dk) = B::rotate_both(dq, dk, cos, sin, true);
                grads.register::<B>(q_node.id, dq);
                grads.register::<B>(k_node.id, dk);
            }
            (q_node, k_node) => {
                let one = q_node.map(|node| (node, dq)).or(k_node.map(|node| (node, dk)));
                if let Some((node, gradient)) = one {
                    grads.register::<B>(node.id, B::rotate(gradient, cos, sin, true));
                }
            }
        }
        if let Some(node) = v_node {
            grads.register::<B>(node.id, dv);
        }
    }
}
