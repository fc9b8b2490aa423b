//! What is kept and what backward does: see [`super::distillation`].
use super::ops::{DistillationOps, Scores, Wanted, mean};
use super::options::Objective;
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata};

impl<B: DistillationOps, C: CheckpointStrategy> DistillationOps for Autodiff<B, C> {
    fn distill(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        teacher: Scores<Self>,
        objective: Objective,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let wanted = [hidden.is_tracked(), head.is_tracked()];
        let ((hidden, hidden_node), (head, head_node)) = (hidden.into_parts(), head.into_parts());
        let dtypes = [hidden.dtype(), head.dtype()];
        let (nll, divergence, to_hidden, to_head) =
            B::distill_with_gradients(hidden, head, targets, teacher.inner(), objective, wanted);
        let loss = mean::<B>(nll.clone(), divergence.clone(), objective);
        let loss = match Scaled.prepare::<C>([hidden_node, head_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let cast = |gradient: Option<FloatTensor<B>>, dtype| gradient.map(|g| Val::<B>(g).cast(dtype).0);
                prep.finish([cast(to_hidden, dtypes[0]), cast(to_head, dtypes[1])], loss)
            }
            OpsKind::UnTracked(prep) => prep.finish(loss),
        };
        (
            loss,
            <Self as AutodiffBackend>::from_inner(nll),
            <Self as AutodiffBackend>::from_inner(divergence),
        )
    }

    fn distill_with_gradients(
        _hidden: FloatTensor<Self>,
        _head: FloatTensor<Self>,
        _targets: IntTensor<Self>,
        _teacher: Scores<Self>,
        _objective: Objective,
        _wanted: Wanted,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        once("distillation")
    }

    fn top_k(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        k: usize,
        temperature: f64,
        common: usize,
        cap: Option<f64>,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let (ids, log_probs) = B::top_k(
            hidden.into_primitive(),
            head.into_primitive(),
            k,
            temperature,
            common,
            cap,
        );
        (ids, <Self as AutodiffBackend>::from_inner(log_probs))
    }
}

/// The gradients came with the loss and need only the factor from above.
#[derive(Debug)]
pub(crate) struct Scaled;

impl<B: Backend> Backward<B, 2> for Scaled {
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let scale = Val::<B>(grads.consume::<B>(&ops.node));
        for (node, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(gradient)) = (node, gradient.map(Val::<B>)) {
                let scale = scale.clone().cast(gradient.dtype()).reshape(&[1, 1]);
                grads.register::<B>(node.id, (gradient * scale).0);
            }
        }
    }
}
