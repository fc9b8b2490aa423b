//! What is kept and what backward does: see [`super::cross_entropy_rows`].
use super::CrossEntropyOps;
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};
use burn::tensor::DType;

impl<B: CrossEntropyOps, C: CheckpointStrategy> CrossEntropyOps for Autodiff<B, C> {
    fn nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> FloatTensor<Self> {
        if head.is_tracked() {
            both::<B, C>(hidden, head, targets, cap)
        } else {
            frozen::<B, C>(hidden, head, targets, cap)
        }
    }

    fn nll_rows(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (nll, lse) = B::nll_rows(hidden.into_primitive(), head.into_primitive(), targets, cap);
        (
            <Self as AutodiffBackend>::from_inner(nll),
            <Self as AutodiffBackend>::from_inner(lse),
        )
    }

    fn nll_rows_with_gradient(
        _hidden: FloatTensor<Self>,
        _head: FloatTensor<Self>,
        _targets: IntTensor<Self>,
        _cap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        once("cross_entropy")
    }

    fn nll_gradients(
        _hidden: FloatTensor<Self>,
        _head: FloatTensor<Self>,
        _targets: IntTensor<Self>,
        _lse: FloatTensor<Self>,
        _scale: FloatTensor<Self>,
        _hidden_too: bool,
        _cap: Option<f64>,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        once("cross_entropy")
    }
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// The head is a constant: the gradient to `hidden` comes with the loss.
fn frozen<B: CrossEntropyOps, C: CheckpointStrategy>(
    hidden: Tracked<B, C>,
    head: Tracked<B, C>,
    targets: IntTensor<B>,
    cap: Option<f64>,
) -> Tracked<B, C> {
    let ((hidden, node), head) = (hidden.into_parts(), head.into_primitive());
    match Frozen.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (nll, gradient) = B::nll_rows_with_gradient(hidden, head, targets, cap);
            prep.finish(gradient, nll)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::nll(hidden, head, targets, cap)),
    }
}

#[derive(Debug)]
struct Frozen;

impl<B: CrossEntropyOps> Backward<B, 1> for Frozen {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let scale = Val::<B>(grads.consume::<B>(&ops.node));
        if let Some(node) = node {
            let gradient = Val::<B>(ops.state);
            let rows = gradient.dims()[0];
            let scale = scale.cast(gradient.dtype()).reshape(&[rows, 1]);
            grads.register::<B>(node.id, (gradient * scale).0);
        }
    }
}

/// The head learns: logits are computed again in backward.
fn both<B: CrossEntropyOps, C: CheckpointStrategy>(
    hidden: Tracked<B, C>,
    head: Tracked<B, C>,
    targets: IntTensor<B>,
    cap: Option<f64>,
) -> Tracked<B, C> {
    let hidden_too = hidden.is_tracked();
    let ((hidden, hidden_node), (head, head_node)) = (hidden.into_parts(), head.into_parts());
    let dtypes = [hidden.dtype(), head.dtype()];
    let (nll, lse) = B::nll_rows(hidden.clone(), head.clone(), targets.clone(), cap);
    match Both.prepare::<C>([hidden_node, head_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(
            Kept {
                hidden,
                head,
                targets,
                lse,
                hidden_too,
                cap,
                dtypes,
            },
            nll,
        ),
        OpsKind::UnTracked(prep) => prep.finish(nll),
    }
}

#[derive(Debug)]
struct Both;

#[derive(Debug, Clone)]
struct Kept<F, I> {
    hidden: F,
    head: F,
    targets: I,
    lse: F,
    hidden_too: bool,
    cap: Option<f64>,
    dtypes: [DType; 2],
}

impl<B: CrossEntropyOps> Backward<B, 2> for Both {
    type State = Kept<FloatTensor<B>, IntTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [hidden_node, head_node] = ops.parents;
        let scale = grads.consume::<B>(&ops.node);
        let Kept {
            hidden,
            head,
            targets,
            lse,
            hidden_too,
            cap,
            dtypes,
        } = ops.state;
        let (to_hidden, to_head) = B::nll_gradients(hidden, head, targets, lse, scale, hidden_too, cap);
        for (node, gradient, dtype) in [
            (hidden_node, to_hidden, dtypes[0]),
            (head_node, Some(to_head), dtypes[1]),
        ] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, Val::<B>(gradient).cast(dtype).0);
            }
        }
    }
}
