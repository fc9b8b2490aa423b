//! Rows of a table by their numbers.
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "gpu")]
use crate::cube;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, IndexingUpdateOp, Int, Shape, Tensor};

/// table `[rows, d]`, ids `[n]` below rows -> `[n, d]`.
///
/// Kept for backward: the ids. The gradient to a row is the sum of those of its places, in their order.
pub fn embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    let rows = <Dispatch as EmbeddingOps>::look_up(table.into_dispatch(), ids.into_dispatch());
    Tensor::from_dispatch(rows)
}

/// The backend operations of [`embedding`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait EmbeddingOps: Backend {
    /// table `[rows, d]`, ids `[n]` -> `[n, d]`.
    #[fusion(default)]
    fn look_up(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(table, 0, ids)
    }

    /// Gradient to the table from that of its rows, dy `[n, d]` -> `[rows, d]`.
    #[fusion(dtype = dy, shape = with_rows(dy, *rows))]
    fn look_up_gradient(dy: FloatTensor<Self>, ids: IntTensor<Self>, rows: usize) -> FloatTensor<Self> {
        portable::<Self>(dy, ids, rows)
    }
}

fn with_rows(shape: &Shape, rows: usize) -> Shape {
    Shape::new([rows, shape[1]])
}

/// Burn's own.
fn portable<B: Backend>(dy: FloatTensor<B>, ids: IntTensor<B>, rows: usize) -> FloatTensor<B> {
    let zeros = B::float_zeros(with_rows(&dy.shape(), rows), &dy.device(), FloatDType::from(dy.dtype()));
    B::float_select_assign(zeros, 0, ids, dy, IndexingUpdateOp::Add)
}

#[cfg(feature = "gpu")]
impl EmbeddingOps for burn_cubecl::CubeBackend {
    fn look_up_gradient(dy: FloatTensor<Self>, ids: IntTensor<Self>, rows: usize) -> FloatTensor<Self> {
        match cube::rows_fit([&dy]) {
            true => cube::embedding_gradient(dy, ids, rows),
            false => portable::<Self>(dy, ids, rows),
        }
    }
}

#[cfg(feature = "flex")]
impl EmbeddingOps for burn::backend::Flex {}

impl<B: EmbeddingOps, C: CheckpointStrategy> EmbeddingOps for Autodiff<B, C> {
    fn look_up(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let (table, node) = table.into_parts();
        match Embedding.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let rows = table.shape()[0];
                prep.finish((ids.clone(), rows), B::look_up(table, ids))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::look_up(table, ids)),
        }
    }

    fn look_up_gradient(_dy: FloatTensor<Self>, _ids: IntTensor<Self>, _rows: usize) -> FloatTensor<Self> {
        crate::portable::once("embedding")
    }
}

#[derive(Debug)]
struct Embedding;

impl<B: EmbeddingOps> Backward<B, 1> for Embedding {
    type State = (IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let ([node], (ids, rows)) = (ops.parents, ops.state);
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::look_up_gradient(dy, ids, rows));
        }
    }
}
