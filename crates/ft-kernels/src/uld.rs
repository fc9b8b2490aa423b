//! Learning from a teacher of another vocabulary, in one operation that never holds the logits of all rows: universal logit
//! distillation (Boizard et al. 2024, <https://arxiv.org/abs/2402.12030>, Eq. 5) over spans of text.
//!
//! ```text
//! span: the student's rows i, i+1, .. and the teacher's j, j+1, .. that predict the tokens of one piece of text
//!   s = softmax(z_i / T) · Π_{k>i} softmax(z_k / T)[target_k]        t = the same of the teacher, from j on
//!   D = Σ_r |s_(r) - t_(r)|                                          r-th largest entries; a missing one is 0
//! ```
mod backward;
mod blocks;
mod ops;
mod portable;
#[cfg(all(test, feature = "flex"))]
mod tests;

use crate::Head;
use crate::distillation::Distillation;
#[cfg(feature = "flex")]
pub(crate) use blocks::{Block, blocks};
use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};
pub(crate) use ops::Task;
use ops::UldOps;
use std::ops::Range;
use std::sync::Arc;

/// What the student is compared with. Its tensors are constants, on any device of the student's backend.
#[derive(Debug, Clone)]
pub struct UldTeacher {
    /// Its last hidden states, `[m, d]`.
    pub hidden: Tensor<2>,
    /// Its head, `[vocab, d]`.
    pub head: Head,
    /// The tokens that its rows predict, `[m]`.
    pub targets: Tensor<1, Int>,
}

/// A piece of text that is made of whole tokens of both models: the rows that predict them, at least one of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanPair {
    /// The student's.
    pub student: Range<usize>,
    /// The teacher's.
    pub teacher: Range<usize>,
}

/// The objective of [`uld`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UldOptions {
    /// Weight of the distance, in `[0, 1]`; the cross-entropy has the rest.
    pub alpha: f64,
    /// Both models' logits are divided by it, for the distance alone; above 0.
    pub temperature: f64,
}

/// `(1 - alpha) · Σ nll + alpha · Σ D`, nll over the rows and D over the spans: hidden `[n, d]`, head `[vocab, d]`, targets `[n]`.
/// [`Distillation::divergence`] is `Σ D`.
///
/// Of several tokens, a model's distribution is that of the first times the probabilities of the others that are there. D is 0 where
/// both models are the same and every span is one token of each; its slope has the size 1 there, not 0.
///
/// The gradients to `hidden`, and to a tracked head, are computed along with the loss and are all that is kept. The teacher gets none.
///
/// # Panics
/// If shapes do not fit, options lie outside their ranges, spans are empty or not in order on both sides, or (on the CPU) a target
/// lies outside its vocabulary.
pub fn uld(
    hidden: Tensor<2>,
    head: impl Into<Head>,
    targets: Tensor<1, Int>,
    teacher: UldTeacher,
    spans: &[SpanPair],
    options: UldOptions,
) -> Distillation {
    let UldOptions { alpha, temperature } = options;
    assert!(
        (0.0..=1.0).contains(&alpha) && temperature > 0.0 && temperature.is_finite(),
        "uld: alpha lies in [0, 1] and the temperature above 0: {options:?}"
    );
    let Head { weight: head, cap } = head.into();
    crate::cross_entropy::check(&hidden, &head, &targets);
    crate::cross_entropy::check(&teacher.hidden, &teacher.head.weight, &teacher.targets);
    check_spans(spans, [hidden.dims()[0], teacher.hidden.dims()[0]]);
    let task = Task {
        options,
        spans: Arc::from(spans),
        caps: [cap, teacher.head.cap],
    };
    let (loss, nll, divergence) = <Dispatch as UldOps>::uld(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets.into_dispatch(),
        teacher.hidden.inner().into_dispatch(),
        teacher.head.weight.inner().into_dispatch(),
        teacher.targets.into_dispatch(),
        task,
    );
    Distillation {
        loss: Tensor::from_dispatch(loss),
        nll: Tensor::from_dispatch(nll),
        divergence: Tensor::from_dispatch(divergence),
    }
}

fn check_spans(spans: &[SpanPair], [rows, teacher_rows]: [usize; 2]) {
    let mut ends = [0, 0];
    for span in spans {
        let SpanPair { student, teacher } = span;
        let in_order = ends[0] <= student.start && ends[1] <= teacher.start;
        assert!(
            in_order && student.start < student.end && teacher.start < teacher.end,
            "uld: {span:?} is empty, or begins before the one before it ends"
        );
        ends = [student.end, teacher.end];
    }
    assert!(
        ends[0] <= rows && ends[1] <= teacher_rows,
        "uld: a span ends at {ends:?} of {rows} and {teacher_rows} rows"
    );
}
