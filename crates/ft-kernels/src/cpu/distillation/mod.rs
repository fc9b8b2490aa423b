//! Cross-entropy and divergence from a teacher, from one product with the student's head.
//!
//! ```text
//!  for each block of rows:
//!    z = h · Wᵀ, y = teacher's         [rows, vocab], two reused buffers
//!    for each row: the losses, z becomes their slope dz
//!    dh = dz · W,  dW += dzᵀ · h
//! ```
//! A slope of the divergence needs the sums of both softmaxes, so that here rows of logits are complete, but few.
mod row;
mod topk;

use super::cross_entropy::Head;
use super::gemm::{Mat, Par, Term, gemm};
use super::{par, scratch, soft_cap};
use crate::distillation::{Divergence, Objective};
pub(crate) use topk::top_k;

/// Logits in a buffer: 48 MiB. A third of it costs half as much time again.
const LOGITS: usize = 12 << 20;
/// At least so many rows share one reading of the head.
const ROWS: usize = 128;

/// What the student is compared with.
#[derive(Clone, Copy)]
pub(crate) enum Teacher<'a> {
    /// `[n, d]` and the head's rows that both models have, `[common, d]`.
    Live { hidden: Mat<'a>, weight: Mat<'a> },
    /// `[n, k]` each.
    TopK { ids: &'a [usize], log_probs: &'a [f32] },
}

/// Where gradients go that are asked for: `[n, d]` and `[vocab, d]`, in full.
pub(crate) struct Wanted<'a> {
    pub(crate) hidden: Option<&'a mut [f32]>,
    pub(crate) head: Option<&'a mut [f32]>,
}

/// Sums over the rows: negative log likelihood in nats, divergence.
pub(crate) type Sums = [f64; 2];

/// Both sums, and the gradients of what the objective makes of them.
pub(crate) fn distill(student: &Head, teacher: &Teacher, objective: &Objective, mut wanted: Wanted) -> Sums {
    let (n, d) = (student.hidden.rows(), student.hidden.cols());
    let mut losses = vec![[0.0; 2]; n];
    let step = step(student.weight.rows());
    for start in (0..n).step_by(step) {
        let rows = step.min(n - start);
        let block = Block {
            student: student.narrow(start, rows),
            teacher: teacher.narrow(start, rows, n),
            rule: Rule::new(objective),
        };
        let wanted = Wanted {
            hidden: wanted.hidden.as_deref_mut().map(|g| &mut g[start * d..][..rows * d]),
            head: wanted.head.as_deref_mut(),
        };
        block.run(&mut losses[start..start + rows], wanted, start > 0);
    }
    let sum = |i: usize| losses.iter().map(|row| f64::from(row[i])).sum();
    [sum(0), sum(1)]
}

/// Rows of a block.
pub(crate) fn step(vocab: usize) -> usize {
    (LOGITS / vocab).max(ROWS)
}

impl Teacher<'_> {
    fn narrow(&self, start: usize, rows: usize, n: usize) -> Self {
        match *self {
            Self::Live { hidden, weight } => Self::Live {
                hidden: hidden.narrow_rows(start, rows),
                weight,
            },
            Self::TopK { ids, log_probs } => {
                let k = ids.len() / n;
                let range = start * k..(start + rows) * k;
                Self::TopK {
                    ids: &ids[range.clone()],
                    log_probs: &log_probs[range],
                }
            }
        }
    }
}

/// The objective in the numbers that a row needs.
#[derive(Clone, Copy)]
struct Rule {
    divergence: Divergence,
    /// Rows of the vocabulary that the divergence sees.
    common: usize,
    /// One over the temperature.
    cool: f32,
    /// What a divergence is multiplied by.
    scale: f32,
    /// Weight of the cross-entropy's slope.
    likelihood: f32,
    /// Weight of the divergence's slope to the cooled logits.
    mimicry: f32,
    /// Bound of the teacher's logits.
    cap: Option<f32>,
}

impl Rule {
    fn new(objective: &Objective) -> Self {
        let options = &objective.options;
        Self {
            divergence: options.divergence(),
            common: objective.common,
            cool: (1.0 / options.temperature) as f32,
            scale: options.scale() as f32,
            likelihood: (1.0 - options.alpha) as f32,
            mimicry: options.slope() as f32,
            cap: objective.caps[1].map(|cap| cap as f32),
        }
    }
}

/// The rows at hand.
struct Block<'a> {
    student: Head<'a>,
    teacher: Teacher<'a>,
    rule: Rule,
}

impl Block<'_> {
    fn run(&self, losses: &mut [[f32; 2]], wanted: Wanted, add: bool) {
        let Head { hidden, weight, .. } = self.student;
        let (vocab, d) = (weight.rows(), hidden.cols());
        let mut logits = scratch::take(losses.len() * vocab);
        gemm(&[Term::new(hidden, weight.t())], &mut logits, vocab, false, Par::All);
        let (slopes, cap) = (wanted.hidden.is_some() || wanted.head.is_some(), self.student.cap);
        soft_cap::bound_all(&mut logits, cap);
        let bounded = soft_cap::keep(&logits, cap, slopes);
        self.compare(&mut logits, losses, slopes);
        soft_cap::undo_all(&mut logits, bounded);
        let slopes = Mat::new(&logits, losses.len(), vocab);
        if let Some(out) = wanted.hidden {
            gemm(&[Term::new(slopes, weight)], out, d, false, Par::All);
        }
        if let Some(out) = wanted.head {
            gemm(&[Term::new(slopes.t(), hidden)], out, d, add, Par::All);
        }
    }

    /// The losses; the student's logits become slopes if asked for.
    fn compare(&self, logits: &mut [f32], losses: &mut [[f32; 2]], slopes: bool) {
        let (rule, common) = (&self.rule, self.rule.common);
        match self.teacher {
            Teacher::Live { hidden, weight } => {
                let mut teacher = scratch::take(losses.len() * common);
                gemm(&[Term::new(hidden, weight.t())], &mut teacher, common, false, Par::All);
                soft_cap::bound_all(&mut teacher, rule.cap);
                let teacher = par::Shared::new(&mut teacher);
                self.each(logits, losses, |row, target, z| {
                    // SAFETY: every row is run once.
                    let y = unsafe { teacher.slice(row * common, common) };
                    row::live(z, y, target, rule, slopes)
                });
            }
            Teacher::TopK { ids, log_probs } => {
                let k = ids.len() / losses.len();
                self.each(logits, losses, |row, target, z| {
                    let range = row * k..(row + 1) * k;
                    row::top_k(z, &ids[range.clone()], &log_probs[range], target, rule, slopes)
                });
            }
        }
    }

    /// Runs `f(row, target, logits)` once on every row.
    fn each(
        &self,
        logits: &mut [f32],
        losses: &mut [[f32; 2]],
        f: impl Fn(usize, usize, &mut [f32]) -> [f32; 2] + Sync,
    ) {
        let (rows, vocab) = (losses.len(), self.student.weight.rows());
        let (logits, losses) = (par::Shared::new(logits), par::Shared::new(losses));
        par::row_blocks(rows, vocab, |start, len| {
            for row in start..start + len {
                // SAFETY: every row belongs to one block.
                let (z, loss) = unsafe { (logits.slice(row * vocab, vocab), &mut losses.slice(row, 1)[0]) };
                *loss = f(row, self.student.targets[row], z);
            }
        });
    }
}
