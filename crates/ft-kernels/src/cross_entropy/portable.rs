//! Compositions of Burn's operations in chunks of rows, right on every backend and type.
use crate::portable::Val;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{IndexingUpdateOp, Shape, Slice};

/// Logits per chunk: 128 MiB in f32.
const LOGITS: usize = 1 << 25;

/// Per row: negative log likelihood and logarithm of the sum of exponentials.
pub(super) fn rows<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let head = Val::<B>(head).cast(hidden.dtype());
    let (mut nll, mut lse) = (vec![], vec![]);
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let softmax = Softmax::new(&chunk, &head);
        let rows = chunk.rows();
        nll.push(softmax.nll.reshape(&[rows]));
        lse.push(softmax.lse.reshape(&[rows]));
    }
    (Val::cat(nll, 0).0, Val::cat(lse, 0).0)
}

/// Per row: negative log likelihood and its gradient to `hidden`.
pub(super) fn rows_with_gradient<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = hidden.dtype();
    let head = Val::<B>(head).cast(dtype);
    let (mut nll, mut gradient) = (vec![], vec![]);
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let softmax = Softmax::new(&chunk, &head);
        gradient.push(chunk.to_hidden(softmax.p, &head).cast(dtype));
        nll.push(softmax.nll.reshape(&[chunk.rows()]));
    }
    (Val::<B>::cat(nll, 0).0, Val::<B>::cat(gradient, 0).0)
}

/// Gradients of `Σ scale · nll` to `hidden` (if asked for) and `head`.
pub(super) fn gradients<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
    lse: FloatTensor<B>,
    scale: FloatTensor<B>,
    hidden_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let (head, lse) = (Val::<B>(head).cast(hidden.dtype()), Val::<B>(lse));
    let scale = Val::<B>(scale).cast(lse.dtype());
    let (mut to_hidden, mut to_head): (Vec<Val<B>>, Option<Val<B>>) = (vec![], None);
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let column = |x: &Val<B>| {
            x.clone()
                .narrow(0, chunk.start, chunk.rows())
                .reshape(&[chunk.rows(), 1])
        };
        let p = (chunk.logits(&head) - column(&lse)).exp();
        if hidden_too {
            to_hidden.push(chunk.to_hidden(p.clone(), &head) * column(&scale));
        }
        let part = chunk.to_head(p, column(&scale));
        to_head = Some(match to_head {
            Some(sum) => sum + part,
            None => part,
        });
    }
    (
        hidden_too.then(|| Val::cat(to_hidden, 0).0),
        to_head.expect("at least one chunk").0,
    )
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

    /// `[rows, vocab]`, at least f32.
    pub(crate) fn logits(&self, head: &Val<B>) -> Val<B> {
        self.hidden
            .clone()
            .matmul(head.clone().cast(self.hidden.dtype()).t())
            .wide()
    }

    /// `p · W - W[target]` for probabilities p.
    fn to_hidden(&self, p: Val<B>, head: &Val<B>) -> Val<B> {
        let dtype = p.dtype();
        let expected = p.cast(head.dtype()).matmul(head.clone()).cast(dtype);
        let target = Val::<B>(B::float_select(head.0.clone(), 0, self.targets.clone()));
        expected - target.cast(dtype)
    }

    /// `(p - onehot)ᵀ · scale h`, scale `[rows, 1]`.
    fn to_head(&self, p: Val<B>, scale: Val<B>) -> Val<B> {
        let hidden = self.hidden.clone().cast(p.dtype()) * scale;
        let expected = p.t().matmul(hidden.clone());
        let update = IndexingUpdateOp::Add;
        Val(B::float_select_assign(
            expected.0,
            0,
            self.targets.clone(),
            hidden.scale(-1.0).0,
            update,
        ))
    }
}

/// The softmax of a chunk: `[rows, 1]`, `[rows, 1]`, `[rows, vocab]`.
struct Softmax<B: Backend> {
    nll: Val<B>,
    lse: Val<B>,
    p: Val<B>,
}

impl<B: Backend> Softmax<B> {
    fn new(chunk: &Chunk<B>, head: &Val<B>) -> Self {
        let logits = chunk.logits(head);
        let max = Val::<B>(B::float_max_dim(logits.0.clone(), 1));
        let indices = B::int_reshape(chunk.targets.clone(), Shape::new([chunk.rows(), 1]));
        let target = Val::<B>(B::float_gather(1, logits.0.clone(), indices));
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
