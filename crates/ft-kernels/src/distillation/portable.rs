//! Compositions of Burn's operations in chunks of rows, right on every backend and type.
use super::ops::{Scores, Wanted};
use super::options::{Divergence, FAR, Objective, TINY};
use crate::cross_entropy::portable::{Chunk, chunks};
use crate::portable::Val;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Scalar, TensorMetadata};
use burn::tensor::{FloatDType, IndexingUpdateOp, IntDType, Shape, Slice};

/// Logits per chunk: 32 MiB in f32, of which about ten exist at a time.
const LOGITS: usize = 1 << 23;

/// Two sums and two gradients.
type Results<B> = (
    FloatTensor<B>,
    FloatTensor<B>,
    Option<FloatTensor<B>>,
    Option<FloatTensor<B>>,
);

/// The negative log likelihood, the divergence, and the gradients asked for.
pub(super) fn distill<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    targets: IntTensor<B>,
    teacher: Scores<B>,
    objective: Objective,
    [hidden_too, head_too]: Wanted,
) -> Results<B> {
    let dtype = hidden.dtype();
    let head = Val::<B>(head).cast(dtype);
    let (mut nll, mut divergence, mut to_hidden) = (vec![], vec![], vec![]);
    let mut to_head: Option<Val<B>> = None;
    for chunk in chunks::<B>(Val(hidden), &head, targets, LOGITS) {
        let teacher = Compared::new(&teacher, &chunk, &objective);
        let losses = losses(&chunk, &head, teacher, &objective);
        nll.push(losses.nll.reshape(&[chunk.rows()]));
        divergence.push(losses.divergence.reshape(&[chunk.rows()]));
        if hidden_too {
            to_hidden.push(losses.slopes.clone().cast(dtype).matmul(head.clone()));
        }
        if head_too {
            let part = losses
                .slopes
                .clone()
                .t()
                .matmul(chunk.hidden.clone().cast(losses.slopes.dtype()));
            to_head = Some(match to_head {
                Some(sum) => sum + part,
                None => part,
            });
        }
    }
    let sum = |rows| Val::<B>(B::float_sum(Val::<B>::cat(rows, 0).0)).reshape(&[1]).0;
    (
        sum(nll),
        sum(divergence),
        hidden_too.then(|| Val::cat(to_hidden, 0).0),
        to_head.map(|g| g.0),
    )
}

/// The teacher's part of a chunk.
enum Compared<B: Backend> {
    /// Logits `[rows, common]`.
    All(Val<B>),
    /// `[rows, k]` each.
    Top(IntTensor<B>, Val<B>),
}

impl<B: Backend> Compared<B> {
    fn new(teacher: &Scores<B>, chunk: &Chunk<B>, objective: &Objective) -> Self {
        let rows = |x: &FloatTensor<B>| Val::<B>(x.clone()).narrow(0, chunk.start, chunk.rows());
        match teacher {
            Scores::Live { hidden, head } => {
                let head = Val::<B>(head.clone())
                    .narrow(0, 0, objective.common)
                    .cast(hidden.dtype());
                Self::All(rows(hidden).matmul(head.t()).wide().bounded(objective.caps[1]))
            }
            Scores::TopK { ids, log_probs } => {
                let range = [Slice::new(
                    chunk.start as isize,
                    Some((chunk.start + chunk.rows()) as isize),
                    1,
                )];
                Self::Top(B::int_slice(ids.clone(), &range), rows(log_probs).wide())
            }
        }
    }
}

/// `[rows, 1]`, `[rows, 1]`, `[rows, vocab]`.
struct Losses<B: Backend> {
    nll: Val<B>,
    divergence: Val<B>,
    slopes: Val<B>,
}

fn losses<B: Backend>(chunk: &Chunk<B>, head: &Val<B>, teacher: Compared<B>, objective: &Objective) -> Losses<B> {
    let (options, common) = (&objective.options, objective.common);
    let logits = chunk.logits(head, objective.caps[0]);
    let (vocab, rows) = (logits.dims()[1], chunk.rows());
    let log_q = log_softmax(logits.clone().narrow(1, 0, common).scale(1.0 / options.temperature));
    let compared = match teacher {
        Compared::All(logits) => {
            let log_p = log_softmax(logits.scale(1.0 / options.temperature)).cast(log_q.dtype());
            let shares = Shares::new(options.divergence(), log_q, log_p);
            let mean = shares.slope.clone().sum_last();
            (shares.value.clone().sum_last(), shares.slopes(mean))
        }
        Compared::Top(ids, log_p) => {
            let log_p = log_p.cast(log_q.dtype());
            cut(options.divergence(), log_q, ids, log_p)
        }
    };
    let log_q = log_softmax(logits.clone());
    let targets = B::int_reshape(chunk.targets.clone(), Shape::new([rows, 1]));
    let nll = Val::<B>(B::float_gather(1, log_q.0.clone(), targets.clone())).scale(-1.0);
    let likelihood = 1.0 - options.alpha;
    let miss = filled(&nll, -likelihood);
    let slopes = scatter(log_q.exp().scale(likelihood), targets, miss);
    let padded = pad(compared.1.scale(options.slope()), vocab);
    Losses {
        nll,
        divergence: compared.0.scale(options.scale()),
        slopes: (slopes + padded).unbounded(&logits, objective.caps[0]),
    }
}

/// Every category's share of the divergence, its `q·∂D/∂q`, and q.
struct Shares<B: Backend> {
    value: Val<B>,
    slope: Val<B>,
    q: Val<B>,
}

impl<B: Backend> Shares<B> {
    fn new(divergence: Divergence, log_q: Val<B>, log_p: Val<B>) -> Self {
        let ratio = log_p.clone() - log_q.clone();
        let q = log_q.exp();
        let (value, slope) = match divergence {
            Divergence::Forward => {
                let p = log_p.exp();
                (p.clone() * ratio, p.scale(-1.0))
            }
            Divergence::Reverse => {
                let share = q.clone() * ratio.scale(-1.0);
                (share.clone(), share)
            }
            Divergence::Mixed(beta) => {
                let ratio = Val::<B>(B::float_clamp(ratio.0, Scalar::from(-FAR), Scalar::from(FAR)));
                let mixture = log(ratio.clone().exp().scale(beta).shift(1.0 - beta));
                let own = q.clone() * mixture.clone().scale(beta - 1.0);
                (log_p.exp().scale(beta) * (ratio - mixture) + own.clone(), own)
            }
        };
        Self { value, slope, q }
    }

    /// The slope to the cooled logits, from the mean `Σ q·g` `[rows, 1]`.
    fn slopes(self, mean: Val<B>) -> Val<B> {
        self.slope - self.q * mean
    }
}

/// Divergence `[rows, 1]` and slopes `[rows, common]` where the teacher's tokens `ids` are known and all others are one
/// category.
fn cut<B: Backend>(divergence: Divergence, log_q: Val<B>, ids: IntTensor<B>, log_p: Val<B>) -> (Val<B>, Val<B>) {
    let (common, k) = (log_q.dims()[1], log_p.dims()[1]);
    let top_q = Val::<B>(B::float_gather(1, log_q.0.clone(), ids.clone()));
    // Exactly zero at the top: what is subtracted is what is there.
    let others = scatter(log_q.exp(), ids.clone(), top_q.clone().exp().scale(-1.0));
    let top = Shares::new(divergence, top_q, log_p.clone());
    let (mut value, mut mean) = (top.value.clone().sum_last(), top.slope.clone().sum_last());
    if k == common {
        let slopes = top.slopes(mean);
        return (value, scatter(others, ids, slopes));
    }
    let tail_q = log(clamp_min(others.clone().sum_last(), (-FAR).exp()));
    let tail_p = log(clamp_min(log_p.exp().sum_last().scale(-1.0).shift(1.0), TINY));
    let tail = Shares::new(divergence, tail_q, tail_p);
    value = value + tail.value;
    mean = mean + tail.slope.clone();
    let factor = tail.slope / tail.q - mean.clone();
    let slopes = scatter(others * factor, ids, top.slopes(mean));
    (value, slopes)
}

/// Ids and logarithms of the probabilities of the `k` most probable of `common` tokens.
pub(super) fn top_k<B: Backend>(
    hidden: FloatTensor<B>,
    head: FloatTensor<B>,
    k: usize,
    temperature: f64,
    common: usize,
    cap: Option<f64>,
) -> (IntTensor<B>, FloatTensor<B>) {
    let head = Val::<B>(head).narrow(0, 0, common).cast(hidden.dtype()).t();
    let (n, step) = (hidden.shape()[0], (LOGITS / common).max(1));
    let (mut ids, mut log_probs) = (vec![], vec![]);
    for start in (0..n.max(1)).step_by(step) {
        let rows = Val::<B>(hidden.clone()).narrow(0, start, step.min(n - start));
        let scores = log_softmax(rows.matmul(head.clone()).wide().bounded(cap).scale(1.0 / temperature));
        let (values, places) = B::float_topk_with_indices(scores.0, 1, k, IntDType::I32);
        log_probs.push(Val(values));
        ids.push(places);
    }
    (B::int_cat(ids, 0), Val::<B>::cat(log_probs, 0).0)
}

fn log_softmax<B: Backend>(x: Val<B>) -> Val<B> {
    let max = Val::<B>(B::float_max_dim(x.0.clone(), 1));
    let x = x - max;
    let lse = log(x.clone().exp().sum_last());
    x - lse
}

fn log<B: Backend>(x: Val<B>) -> Val<B> {
    Val(B::float_log(x.0))
}

fn clamp_min<B: Backend>(x: Val<B>, min: f64) -> Val<B> {
    Val(B::float_clamp_min(x.0, Scalar::from(min)))
}

/// Adds `values` at `ids`, `[rows, k]` each, to a matrix `[rows, width]`.
fn scatter<B: Backend>(x: Val<B>, ids: IntTensor<B>, values: Val<B>) -> Val<B> {
    Val(B::float_scatter(1, x.0, ids, values.0, IndexingUpdateOp::Add))
}

/// A matrix of one value with the size and type of `like`.
fn filled<B: Backend>(like: &Val<B>, value: f64) -> Val<B> {
    let dtype = FloatDType::from(like.dtype());
    Val(B::float_full(
        like.0.shape(),
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
    let dtype = FloatDType::from(x.dtype());
    let zeros = B::float_zeros(Shape::new([rows, width - have]), &x.0.device(), dtype);
    Val::cat(vec![x, Val(zeros)], 1)
}
