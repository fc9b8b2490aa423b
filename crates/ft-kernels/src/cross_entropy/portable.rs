//! Compositions of Burn's operations in chunks of rows, right on every backend and type.
use super::CrossEntropyOps;
use crate::portable::Val;
#[cfg(feature = "gpu")]
use crate::portable::wide;
#[cfg(feature = "gpu")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape, Slice};

/// Logits per chunk: 128 MiB in f32.
const LOGITS: usize = 1 << 25;

/// Per row: negative log likelihood and logarithm of the sum of exponentials.
pub(super) fn rows<B: CrossEntropyOps>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
    cap: Option<f64>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let head = Val::<B>(head).cast(hidden.dtype());
    let (mut nll, mut lse) = (Vec::<Val<B>>::new(), Vec::<Val<B>>::new());
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let (nll_rows, lse_rows) = B::softmax_losses(chunk.product(&head).bounded(cap).0, chunk.targets);
        nll.push(Val(nll_rows));
        lse.push(Val(lse_rows));
    }
    (joined(nll).0, joined(lse).0)
}

/// Per row: negative log likelihood and its gradient to `hidden`.
pub(super) fn rows_with_gradient<B: CrossEntropyOps>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
    cap: Option<f64>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let head = Val::<B>(head).cast(hidden.dtype());
    let (mut nll, mut gradient) = (Vec::<Val<B>>::new(), Vec::<Val<B>>::new());
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let logits = chunk.product(&head).bounded(cap);
        let (nll_rows, to_bounded) = B::softmax_losses_with_gradient(logits.0.clone(), chunk.targets);
        gradient.push(Val(to_bounded).unbounded(&logits, cap).matmul(head.clone()));
        nll.push(Val(nll_rows));
    }
    (joined(nll).0, joined(gradient).0)
}

/// Gradients of `Σ scale · nll` to `hidden` (if asked for) and `head`.
pub(super) fn gradients<B: CrossEntropyOps>(
    [hidden, head, lse, scale]: [FloatTensor<B>; 4],
    targets: IntTensor<B>,
    hidden_too: bool,
    cap: Option<f64>,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let dtype = hidden.dtype();
    // Scales of losses are beyond f16, whose gradients are computed in f32.
    let compute = if dtype == DType::F16 { DType::F32 } else { dtype };
    let (head, lse) = (Val::<B>(head).cast(dtype), Val::<B>(lse));
    let scale = Val::<B>(scale).cast(lse.dtype());
    let (mut to_hidden, mut to_head): (Vec<Val<B>>, Option<Val<B>>) = (vec![], None);
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let some = |x: &Val<B>| x.clone().narrow(0, chunk.start, chunk.rows()).0;
        let logits = chunk.product(&head).bounded(cap).cast(compute);
        let to_logits = Val(B::softmax_gradient(
            logits.0.clone(),
            chunk.targets.clone(),
            some(&lse),
            some(&scale),
        ));
        let to_logits = to_logits.unbounded(&logits, cap);
        if hidden_too {
            to_hidden.push(to_logits.clone().matmul(head.clone().cast(compute)));
        }
        let part = to_logits.t().matmul(chunk.hidden.cast(compute)).wide();
        to_head = Some(match to_head {
            Some(sum) => sum + part,
            None => part,
        });
    }
    (
        hidden_too.then(|| joined(to_hidden).0),
        to_head.expect("at least one chunk").0,
    )
}

fn joined<B: Backend>(mut parts: Vec<Val<B>>) -> Val<B> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Val::cat(parts, 0),
    }
}

/// What fusion is told of a number of each row of logits.
#[cfg(feature = "gpu")]
pub(super) fn per_row(logits: &TensorSpec) -> TensorSpec {
    TensorSpec::new(Shape::new([logits.shape[0]]), wide(logits.dtype))
}

/// Targets `[rows]` as indices into `[rows, vocab]`.
pub(super) fn targets_of<B: Backend>(targets: IntTensor<B>, rows: usize) -> IntTensor<B> {
    B::int_reshape(targets, Shape::new([rows, 1]))
}

/// Some of the rows.
pub(crate) struct Chunk<B: Backend> {
    pub(crate) start: usize,
    pub(crate) hidden: Val<B>,
    pub(crate) targets: IntTensor<B>,
}

/// At least one chunk of about `logits` logits, possibly without rows. The head has the type of the hidden states.
pub(crate) fn chunks<B: Backend>(hidden: Val<B>, head: &Val<B>, targets: IntTensor<B>, logits: usize) -> Vec<Chunk<B>> {
    let (n, vocab) = (hidden.dims()[0], head.dims()[0]);
    let step = (logits / vocab).clamp(1, n.max(1));
    let starts = (0..n.max(1)).step_by(step);
    let chunk = |start: usize| {
        let rows = step.min(n - start);
        if rows == n {
            return Chunk {
                start,
                hidden: hidden.clone(),
                targets: targets.clone(),
            };
        }
        let range = [Slice::new(start as isize, Some((start + rows) as isize), 1)];
        Chunk {
            start,
            hidden: hidden.clone().narrow(0, start, rows),
            targets: B::int_slice(targets.clone(), &range),
        }
    };
    starts.map(chunk).collect()
}

impl<B: Backend> Chunk<B> {
    pub(crate) fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    /// `[rows, vocab]`, at least f32; bounded where there is a cap.
    pub(crate) fn logits(&self, head: &Val<B>, cap: Option<f64>) -> Val<B> {
        self.product(head).wide().bounded(cap)
    }

    /// `[rows, vocab]` in the type of the hidden states.
    fn product(&self, head: &Val<B>) -> Val<B> {
        let head = head.clone().cast(self.hidden.dtype());
        self.hidden.clone().matmul(head.t())
    }
}

/// The softmax of logits: `[rows, 1]`, `[rows, 1]`, `[rows, vocab]`, at least f32.
pub(super) struct Softmax<B: Backend> {
    pub(super) nll: Val<B>,
    pub(super) lse: Val<B>,
    pub(super) p: Val<B>,
}

impl<B: Backend> Softmax<B> {
    pub(super) fn new(logits: Val<B>, targets: IntTensor<B>) -> Self {
        let logits = logits.wide();
        let rows = logits.dims()[0];
        let max = Val::<B>(B::float_max_dim(logits.0.clone(), 1));
        let target = Val::<B>(B::float_gather(1, logits.0.clone(), targets_of::<B>(targets, rows)));
        let e = (logits - max.clone()).exp();
        let sum = e.clone().sum_last();
        let lse = max + Val(B::float_log(sum.0.clone()));
        Self {
            nll: lse.clone() - target,
            p: e / sum,
            lse,
        }
    }
}
