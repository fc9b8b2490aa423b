//! What is kept: see [`super::uld`]. Backward scales it.
use super::ops::{Task, UldOps, Wanted};
use crate::distillation::Scaled;
use crate::portable::{Val, once};
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};

impl<B: UldOps, C: CheckpointStrategy> UldOps for Autodiff<B, C> {
    fn uld(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        teacher_hidden: FloatTensor<Self>,
        teacher_head: FloatTensor<Self>,
        teacher_targets: IntTensor<Self>,
        task: Task,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let wanted = [hidden.is_tracked(), head.is_tracked()];
        let ((hidden, hidden_node), (head, head_node)) = (hidden.into_parts(), head.into_parts());
        let dtypes = [hidden.dtype(), head.dtype()];
        let (nll, distance, to_hidden, to_head) = B::uld_with_gradients(
            hidden,
            head,
            targets,
            teacher_hidden.into_primitive(),
            teacher_head.into_primitive(),
            teacher_targets,
            task.clone(),
            wanted,
        );
        let loss = task.weigh::<B>(nll.clone(), distance.clone());
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
            <Self as AutodiffBackend>::from_inner(distance),
        )
    }

    fn uld_with_gradients(
        _hidden: FloatTensor<Self>,
        _head: FloatTensor<Self>,
        _targets: IntTensor<Self>,
        _teacher_hidden: FloatTensor<Self>,
        _teacher_head: FloatTensor<Self>,
        _teacher_targets: IntTensor<Self>,
        _task: Task,
        _wanted: Wanted,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        once("uld")
    }
}
