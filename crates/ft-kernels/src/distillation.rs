//! Learning from a teacher's scores and from targets in one operation that never holds the logits of all rows.
mod backward;
mod ops;
mod options;
mod portable;
#[cfg(all(test, feature = "flex"))]
mod tests;

use crate::Head;
pub(crate) use backward::Scaled;
use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};
use ops::{DistillationOps, Scores};
pub use options::DistillationOptions;
#[cfg(feature = "flex")]
pub(crate) use options::TINY;
pub(crate) use options::{Divergence, FAR, Objective};

/// What the student is compared with. Its tensors are constants, on any device of the student's backend.
#[derive(Debug, Clone)]
pub enum Teacher {
    /// The teacher's last hidden states `[n, d]` and its head `[vocab, d]`.
    ///
    /// Width and vocabulary need not be the student's. Vocabularies padded to different sizes are compared over the rows
    /// that both have: each model's softmax is restricted to the first `min` of the two.
    Live {
        /// `[n, d]`.
        hidden: Tensor<2>,
        /// `[vocab, d]`.
        head: Head,
    },
    /// What [`teacher_topk`] computed earlier, at the same temperature.
    ///
    /// The tokens that are not among a row's `k` form one category: the teacher's is what its probabilities leave of 1,
    /// the student's is the sum of theirs. If `k` is `common` there is none, and the result is that of `Live`.
    TopK {
        /// `[n, k]`, distinct in each row and below `common`.
        ids: Tensor<2, Int>,
        /// `[n, k]`: natural logarithms of the teacher's probabilities.
        log_probs: Tensor<2>,
        /// Rows of the vocabulary that the probabilities are over; at most the student's.
        common: usize,
    },
}

impl Teacher {
    fn cap(&self) -> Option<f64> {
        match self {
            Self::Live { head, .. } => head.cap,
            Self::TopK { .. } => None,
        }
    }
}

/// What [`distillation`] returns, f32 (f64 for f64), `[1]` each: `loss = (1 - alpha) · nll + alpha · divergence`.
#[derive(Debug, Clone)]
pub struct Distillation {
    /// The objective, differentiable.
    pub loss: Tensor<1>,
    /// Sum over the rows of the negative log likelihood of the target in nats, at temperature 1. A constant.
    pub nll: Tensor<1>,
    /// Sum over the rows of the divergence in nats, times T² with `t_squared`. A constant.
    pub divergence: Tensor<1>,
}

/// Sum over the rows of `(1 - alpha) · nll + alpha · D`: hidden `[n, d]`, head `[vocab, d]`, targets `[n]`.
///
/// D is what `options` say, between softmaxes of both models' logits divided by the temperature. It is a true divergence: of
/// a model from itself it is 0. Both losses come from one product with the student's head; neither model's logits exist
/// for more than a few rows. The gradients to `hidden`, and to a tracked head (`[vocab, d]`), are computed along with the
/// loss and are all that is kept: backward scales them. The teacher gets none.
///
/// # Panics
/// If shapes do not fit or options lie outside their ranges, or (on the CPU) a target lies outside the vocabulary or one of
/// the teacher's ids outside the common rows.
pub fn distillation(
    hidden: Tensor<2>,
    head: impl Into<Head>,
    targets: Tensor<1, Int>,
    teacher: Teacher,
    options: DistillationOptions,
) -> Distillation {
    options.check();
    let Head { weight: head, cap } = head.into();
    let objective = Objective {
        options,
        common: common(&hidden, &head, &targets, &teacher),
        caps: [cap, teacher.cap()],
    };
    let (loss, nll, divergence) = <Dispatch as DistillationOps>::distill(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets.into_dispatch(),
        scores(teacher),
        objective,
    );
    Distillation {
        loss: Tensor::from_dispatch(loss),
        nll: Tensor::from_dispatch(nll),
        divergence: Tensor::from_dispatch(divergence),
    }
}

/// A teacher's `k` most probable tokens of every row: hidden `[n, d]`, head `[vocab, d]` -> ids `[n, k]` (i32) and natural
/// logarithms of their probabilities `[n, k]` (f32; f64 for f64), the most probable first.
///
/// The probabilities are over the first `common` rows of the head, at `temperature`, and sum to less than 1: what is left
/// is the tail of [`Teacher::TopK`]. Both results are constants.
///
/// # Panics
/// If shapes do not fit, or not `1 <= k <= common <= vocab` and `temperature > 0`.
pub fn teacher_topk(
    hidden: Tensor<2>,
    head: impl Into<Head>,
    k: usize,
    temperature: f64,
    common: usize,
) -> (Tensor<2, Int>, Tensor<2>) {
    let Head { weight: head, cap } = head.into();
    let ([n, d], [vocab, head_d]) = (hidden.dims(), head.dims());
    assert!(
        d == head_d && 0 < k && k <= common && common <= vocab,
        "teacher_topk: hidden [{n}, {d}], head [{vocab}, {head_d}], k {k}, common rows {common}"
    );
    assert!(temperature > 0.0, "teacher_topk: temperature {temperature}");
    let [hidden, head] = [hidden.inner().into_dispatch(), head.inner().into_dispatch()];
    let (ids, log_probs) = <Dispatch as DistillationOps>::top_k(hidden, head, k, temperature, common, cap);
    (Tensor::from_dispatch(ids), Tensor::from_dispatch(log_probs))
}

/// Rows of the vocabulary that both models have.
fn common(hidden: &Tensor<2>, head: &Tensor<2>, targets: &Tensor<1, Int>, teacher: &Teacher) -> usize {
    crate::cross_entropy::check(hidden, head, targets);
    let ([n, _], [vocab, _]) = (hidden.dims(), head.dims());
    match teacher {
        Teacher::Live { hidden, head } => {
            let ([rows, d], [size, head_d]) = (hidden.dims(), head.dims());
            assert!(
                n == rows && d == head_d && size > 0,
                "distillation: {n} rows, teacher's hidden [{rows}, {d}], head [{size}, {head_d}]"
            );
            vocab.min(size)
        }
        Teacher::TopK { ids, log_probs, common } => {
            let [rows, k] = ids.dims();
            assert!(
                n == rows && log_probs.dims() == [n, k] && 0 < k && k <= *common && *common <= vocab,
                "distillation: {n} rows, vocabulary {vocab}, teacher's ids [{rows}, {k}], log_probs {:?}, common rows {common}",
                log_probs.dims()
            );
            *common
        }
    }
}

fn scores(teacher: Teacher) -> Scores<Dispatch> {
    match teacher {
        Teacher::Live { hidden, head } => Scores::Live {
            hidden: hidden.inner().into_dispatch(),
            head: head.weight.inner().into_dispatch(),
        },
        Teacher::TopK { ids, log_probs, .. } => Scores::TopK {
            ids: ids.into_dispatch(),
            log_probs: log_probs.inner().into_dispatch(),
        },
    }
}
