//! Losses and gradients of a chunk of logits as compositions of Burn's operations.
use super::portable::{Softmax, targets_of};
use crate::portable::Val;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Scalar, TensorMetadata};
use burn::tensor::{FloatDType, IndexingUpdateOp, Shape};

/// Per row: negative log likelihood and logarithm of the sum of exponentials.
pub(super) fn losses<B: Backend>(logits: FloatTensor<B>, targets: IntTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let rows = logits.shape()[0];
    let softmax = Softmax::<B>::new(Val(logits), targets);
    (softmax.nll.reshape(&[rows]).0, softmax.lse.reshape(&[rows]).0)
}

/// Per row: negative log likelihood and its gradient to the logits.
pub(super) fn losses_with_gradient<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (rows, dtype) = (logits.shape()[0], logits.dtype());
    let softmax = Softmax::<B>::new(Val(logits), targets.clone());
    let gradient = less_one(softmax.p, targets).cast(dtype);
    (softmax.nll.reshape(&[rows]).0, gradient.0)
}

/// The gradients of `scale · nll`.
pub(super) fn gradient<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    lse: FloatTensor<B>,
    scale: FloatTensor<B>,
) -> FloatTensor<B> {
    let (rows, dtype) = (logits.shape()[0], logits.dtype());
    let column = |x| Val::<B>(x).reshape(&[rows, 1]);
    let p = (Val::<B>(logits).wide() - column(lse)).exp();
    (less_one(p, targets) * column(scale)).cast(dtype).0
}

/// p `[rows, vocab]` less one at the targets.
fn less_one<B: Backend>(p: Val<B>, targets: IntTensor<B>) -> Val<B> {
    let rows = p.dims()[0];
    if rows == 0 {
        return p;
    }
    let (device, dtype) = (p.0.device(), FloatDType::from(p.dtype()));
    let ones = B::float_full(Shape::new([rows, 1]), Scalar::from(-1.0), &device, dtype);
    let indices = targets_of::<B>(targets, rows);
    Val(B::float_scatter(1, p.0, indices, ones, IndexingUpdateOp::Add))
}
