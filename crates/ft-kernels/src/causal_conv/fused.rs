//! The CPU's own code, with the backward pass by hand.
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Int, Tensor};

use crate::cpu;
use crate::portable::{Val, once};

/// What stands before the first column, and the first column that each one sees.
#[derive(Debug, Clone, ExtensionType)]
pub enum Past<B: Backend> {
    /// Zeros; all columns are seen.
    Nothing,
    /// `[b, s]`.
    From(IntTensor<B>),
    /// `[b, taps - 1, c]`.
    Columns(FloatTensor<B>),
    /// Both.
    ColumnsFrom(FloatTensor<B>, IntTensor<B>),
}

impl<B: Backend, C: CheckpointStrategy> Past<Autodiff<B, C>> {
    fn inner(self) -> Past<B> {
        match self {
            Past::Nothing => Past::Nothing,
            Past::From(first) => Past::From(first),
            Past::Columns(history) => Past::Columns(history.into_primitive()),
            Past::ColumnsFrom(history, first) => Past::ColumnsFrom(history.into_primitive(), first),
        }
    }
}

pub(super) fn causal_conv(
    x: Tensor<3>,
    weight: Tensor<2>,
    history: Option<Tensor<3>>,
    first: Option<Tensor<2, Int>>,
) -> Tensor<3> {
    let past = match (history.map(Tensor::into_dispatch), first.map(Tensor::into_dispatch)) {
        (None, None) => Past::<Dispatch>::Nothing,
        (None, Some(first)) => Past::From(first),
        (Some(history), None) => Past::Columns(history),
        (Some(history), Some(first)) => Past::ColumnsFrom(history, first),
    };
    Tensor::from_dispatch(<Dispatch as CausalConvOps>::convolve(
        x.into_dispatch(),
        weight.into_dispatch(),
        past,
    ))
}

/// The backend operations of [`super::causal_conv`], on the CPU in f32.
#[backend_extension(Flex, Autodiff)]
pub trait CausalConvOps: Backend {
    /// x `[b, s, c]`, weight `[c, taps]`.
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] past: Past<Self>,
    ) -> FloatTensor<Self>;

    /// Gradients to x and to the weight.
    fn convolve_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        #[extension_type] past: Past<Self>,
        weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);
}

impl CausalConvOps for burn::backend::Flex {
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, past: Past<Self>) -> FloatTensor<Self> {
        let (history, first) = parts(past);
        cpu::causal_conv::forward(x, cpu::flex::vector(weight), history, first)
    }

    fn convolve_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        past: Past<Self>,
        weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let (history, first) = parts(past);
        cpu::causal_conv::backward(x, cpu::flex::vector(weight), dy, history, first, weight_too)
    }
}

fn parts(past: Past<burn::backend::Flex>) -> (Option<burn::backend::flex::FlexTensor>, Option<Vec<i64>>) {
    match past {
        Past::Nothing => (None, None),
        Past::From(first) => (None, Some(cpu::flex::integers(first))),
        Past::Columns(history) => (Some(history), None),
        Past::ColumnsFrom(history, first) => (Some(history), Some(cpu::flex::integers(first))),
    }
}

impl<B: CausalConvOps, C: CheckpointStrategy> CausalConvOps for Autodiff<B, C> {
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, past: Past<Self>) -> FloatTensor<Self> {
        let (weight_too, dtype, past) = (weight.is_tracked(), weight.dtype(), past.inner());
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        match CausalConv
            .prepare::<C>([x_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let kept = Kept {
                    x: x.clone(),
                    weight: weight.clone(),
                    past: past.clone(),
                    weight_too,
                    dtype,
                };
                prep.finish(kept, B::convolve(x, weight, past))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::convolve(x, weight, past)),
        }
    }

    fn convolve_gradients(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _dy: FloatTensor<Self>,
        _past: Past<Self>,
        _weight_too: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        once("causal_conv")
    }
}

#[derive(Debug)]
struct CausalConv;

#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    past: Past<B>,
    weight_too: bool,
    dtype: DType,
}

impl<B: CausalConvOps> Backward<B, 2> for CausalConv {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept {
            x,
            weight,
            past,
            weight_too,
            dtype,
        } = ops.state;
        let (dx, dw) = B::convolve_gradients(x, weight, dy, past, weight_too);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        if let (Some(node), Some(dw)) = (weight_node, dw) {
            grads.register::<B>(node.id, Val::<B>(dw).cast(dtype).0);
        }
    }
}
