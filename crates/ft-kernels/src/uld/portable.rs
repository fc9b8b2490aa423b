//! Compositions of Burn's operations in blocks of rows, right on every backend and type. Devices whose backend cannot sort get the
//! probabilities sorted on the host.
use super::blocks::{Block, blocks};
use super::ops::{Task, Wanted};
use super::{SpanPair, UldOptions};
use crate::portable::Val;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Scalar, TensorMetadata};
use burn::tensor::{FloatDType, IndexingUpdateOp, IntDType, Shape, Slice, TensorData};
use std::ops::Range;

/// Logits of a block: 32 MiB in f32, of which about ten exist at a time.
const LOGITS: usize = 1 << 23;

/// One of the two models: hidden `[n, d]`, head `[vocab, d]`, targets `[n]`.
pub(super) struct Side<B: Backend> {
    hidden: Val<B>,
    head: Val<B>,
    targets: IntTensor<B>,
    /// Bounds its logits.
    cap: Option<f64>,
}

impl<B: Backend> Side<B> {
    pub(super) fn new(hidden: FloatTensor<B>, head: FloatTensor<B>, targets: IntTensor<B>, cap: Option<f64>) -> Self {
        let dtype = hidden.dtype();
        Self {
            hidden: Val(hidden),
            head: Val::<B>(head).cast(dtype),
            targets,
            cap,
        }
    }

    fn most(&self) -> usize {
        (LOGITS / self.head.dims()[0]).max(1)
    }

    /// The targets of some rows, `[rows, 1]`.
    fn targets(&self, rows: &Range<usize>) -> IntTensor<B> {
        let range = [Slice::new(rows.start as isize, Some(rows.end as isize), 1)];
        B::int_reshape(B::int_slice(self.targets.clone(), &range), Shape::new([rows.len(), 1]))
    }

    fn hidden(&self, rows: &Range<usize>) -> Val<B> {
        self.hidden.clone().narrow(0, rows.start, rows.len())
    }

    /// `[rows, vocab]`, at least f32.
    fn logits(&self, rows: &Range<usize>) -> Val<B> {
        self.hidden(rows).matmul(self.head.clone().t()).wide().bounded(self.cap)
    }
}

/// The negative log likelihood, the distance, and the gradients asked for.
#[allow(clippy::type_complexity)]
pub(super) fn uld<B: Backend>(
    [student, teacher]: [Side<B>; 2],
    task: &Task,
    [hidden_too, head_too]: Wanted,
) -> (
    FloatTensor<B>,
    FloatTensor<B>,
    Option<FloatTensor<B>>,
    Option<FloatTensor<B>>,
) {
    let (n, dtype) = (student.hidden.dims()[0], student.hidden.dtype());
    let zero = || full(&student.hidden.clone().narrow(0, 0, 0).wide(), &[1], 0.0);
    let (mut nll, mut distance, mut to_hidden) = (zero(), zero(), vec![student.hidden.clone().narrow(0, 0, 0)]);
    let mut to_head = full(&student.head, &student.head.dims(), 0.0).wide();
    for block in blocks(&task.spans, n, [student.most(), teacher.most()]) {
        let losses = losses(&student, &teacher, task, &block);
        nll = nll + losses.nll;
        distance = distance + losses.distance;
        if hidden_too {
            to_hidden.push(losses.slopes.clone().cast(dtype).matmul(student.head.clone()));
        }
        if head_too {
            let hidden = student.hidden(&block.rows).cast(losses.slopes.dtype());
            to_head = to_head + losses.slopes.t().matmul(hidden);
        }
    }
    (
        nll.0,
        distance.0,
        hidden_too.then(|| Val::cat(to_hidden, 0).0),
        head_too.then_some(to_head.0),
    )
}

/// `[1]`, `[1]`, `[rows, vocab]`.
struct Losses<B: Backend> {
    nll: Val<B>,
    distance: Val<B>,
    slopes: Val<B>,
}

fn losses<B: Backend>(student: &Side<B>, teacher: &Side<B>, task: &Task, block: &Block) -> Losses<B> {
    let UldOptions { alpha, temperature } = task.options;
    let (logits, targets) = (student.logits(&block.rows), student.targets(&block.rows));
    let log_q = log_softmax(logits.clone());
    let nll = gather(log_q.clone(), targets.clone()).scale(-1.0);
    let likelihood = full(&nll, &nll.dims(), alpha - 1.0);
    let mut slopes = scatter(log_q.exp().scale(1.0 - alpha), targets.clone(), likelihood);
    let mut distance = full(&nll, &[1], 0.0);
    let spans = &task.spans[block.spans.clone()];
    if !spans.is_empty() {
        let log_q = log_softmax(logits.clone().scale(1.0 / temperature));
        let own = Merged::new(
            log_q.clone(),
            targets.clone(),
            places(spans, block, |span| &span.student),
        );
        let theirs = log_softmax(teacher.logits(&block.teacher).scale(1.0 / temperature)).cast(log_q.dtype());
        let goal = Merged::new(
            theirs,
            teacher.targets(&block.teacher),
            places(spans, block, |span| &span.teacher),
        );
        let (sum, signs) = sorted_l1(own.probs.clone(), goal.probs);
        distance = sum;
        // The slopes to the merged probabilities, times these.
        let pulled = own.probs * signs;
        let total = pulled.clone().sum_last();
        let [first, rest] = [own.first.t(), own.rest.t()];
        let by_row = (first.clone() + rest.clone()).matmul(total.clone());
        let cooled = first.matmul(pulled) - log_q.exp() * by_row;
        let cooled = scatter(cooled, targets, rest.matmul(total));
        slopes = slopes + cooled.scale(alpha / temperature);
    }
    Losses {
        nll: Val::<B>(B::float_sum(nll.0)).reshape(&[1]),
        distance,
        slopes: slopes.unbounded(&logits, student.cap),
    }
}

/// Every span's distribution, and where its rows are among those of the block.
struct Merged<B: Backend> {
    /// `[spans, vocab]`.
    probs: Val<B>,
    /// `[spans, rows]`: 1 at the first row of each.
    first: Val<B>,
    /// `[spans, rows]`: 1 at its other rows.
    rest: Val<B>,
}

impl<B: Backend> Merged<B> {
    /// From logarithms of probabilities `[rows, vocab]`.
    fn new(log_p: Val<B>, targets: IntTensor<B>, rows: Vec<Range<usize>>) -> Self {
        let width = log_p.dims()[0];
        let table = |of: &dyn Fn(&Range<usize>, usize) -> bool| {
            let cells = rows
                .iter()
                .flat_map(|span| (0..width).map(|row| f64::from(of(span, row))));
            let data = TensorData::new(cells.collect::<Vec<f64>>(), [rows.len(), width]);
            let data = data.convert_dtype(log_p.dtype());
            Val::<B>(B::float_from_data(data, &log_p.0.device()))
        };
        let first = table(&|span, row| row == span.start);
        let rest = table(&|span, row| row > span.start && row < span.end);
        let others = rest.clone().matmul(gather(log_p.clone(), targets));
        let starts: Vec<i32> = rows.iter().map(|span| span.start as i32).collect();
        let starts = B::int_from_data(TensorData::new(starts, [rows.len()]), &log_p.0.device());
        let probs = Val::<B>(B::float_select(log_p.0, 0, starts)) + others;
        Self {
            probs: probs.exp(),
            first,
            rest,
        }
    }
}

/// The rows of one side of each span, counted from the block's first.
fn places(spans: &[SpanPair], block: &Block, side: fn(&SpanPair) -> &Range<usize>) -> Vec<Range<usize>> {
    let whole = SpanPair {
        student: block.rows.clone(),
        teacher: block.teacher.clone(),
    };
    let from = side(&whole).start;
    spans
        .iter()
        .map(|span| side(span).start - from..side(span).end - from)
        .collect()
}

/// `Σ |s_(r) - t_(r)|` `[1]` over all rows, and the sign of the difference at the place of every entry of `s`.
fn sorted_l1<B: Backend>(s: Val<B>, t: Val<B>) -> (Val<B>, Val<B>) {
    let (width, common) = (s.dims()[1], s.dims()[1].max(t.dims()[1]));
    let (sorted, order) = B::float_sort_with_indices(s.0.clone(), 1, true, IntDType::I32);
    let goal = Val::<B>(B::float_sort(t.0, 1, true));
    let apart = pad(Val::<B>(sorted), common) - pad(goal, common);
    let sum = Val::<B>(B::float_sum(B::float_abs(apart.0.clone()))).reshape(&[1]);
    let signs = Val::<B>(B::float_sign(apart.narrow(1, 0, width).0));
    let zeros = full(&s, &s.dims(), 0.0);
    (sum, scatter(zeros, order, signs))
}

fn log_softmax<B: Backend>(x: Val<B>) -> Val<B> {
    let max = Val::<B>(B::float_max_dim(x.0.clone(), 1));
    let x = x - max;
    let sum = x.clone().exp().sum_last();
    x - Val(B::float_log(sum.0))
}

fn gather<B: Backend>(x: Val<B>, ids: IntTensor<B>) -> Val<B> {
    Val(B::float_gather(1, x.0, ids))
}

fn scatter<B: Backend>(x: Val<B>, ids: IntTensor<B>, values: Val<B>) -> Val<B> {
    Val(B::float_scatter(1, x.0, ids, values.0, IndexingUpdateOp::Add))
}

/// A tensor of one value with the type and device of `like`.
fn full<B: Backend>(like: &Val<B>, dims: &[usize], value: f64) -> Val<B> {
    let dtype = FloatDType::from(like.dtype());
    Val(B::float_full(
        Shape::from(dims.to_vec()),
        Scalar::from(value),
        &like.0.device(),
        dtype,
    ))
}

/// With columns of zeros to the right, up to `width`.
fn pad<B: Backend>(x: Val<B>, width: usize) -> Val<B> {
    let [rows, have] = [x.dims()[0], x.dims()[1]];
    if have == width {
        return x;
    }
    let zeros = full(&x, &[rows, width - have], 0.0);
    Val::cat(vec![x, zeros], 1)
}
