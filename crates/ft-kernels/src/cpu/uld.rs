//! Cross-entropy and the distance of sorted probabilities from a teacher of another vocabulary.
//!
//! ```text
//!  for each block of rows that cuts no span:
//!    z = h · Wᵀ, y = teacher's         [rows, vocab], two reused buffers
//!    for each row: log Σ exp and the target's log-probability
//!    for each span: s and t sorted, their distance; its first row of z becomes the slope of the loss
//!    for each other row: likewise
//!    dh = dz · W,  dW += dzᵀ · h
//! ```
use super::cross_entropy::Head;
use super::distillation::{Wanted, step};
use super::gemm::{Mat, Par, Term, gemm};
use super::isa::multiversion;
use super::{math, par, scratch, soft_cap};
use crate::uld::{Block, SpanPair, Task, blocks};
use std::cell::RefCell;

/// Sums of the negative log likelihood in nats over the rows and of the distance over the spans, and the gradients asked for.
pub(crate) fn uld(student: &Head, teacher: &Head, task: &Task, mut wanted: Wanted) -> [f64; 2] {
    let d = student.hidden.cols();
    let most = [student, teacher].map(|side| step(side.weight.rows()));
    let mut sums = [0.0, 0.0];
    for block in blocks(&task.spans, student.hidden.rows(), most) {
        let (start, rows) = (block.rows.start, block.rows.len());
        let to_hidden = wanted.hidden.as_deref_mut().map(|g| &mut g[start * d..][..rows * d]);
        let gradients = Wanted {
            hidden: to_hidden,
            head: wanted.head.as_deref_mut(),
        };
        let [nll, distance] = Part::new(student, teacher, task, block).run(gradients, start > 0);
        sums = [sums[0] + nll, sums[1] + distance];
    }
    sums
}

/// The rows at hand.
struct Part<'a> {
    student: Head<'a>,
    teacher: Head<'a>,
    /// With rows of this part.
    spans: Vec<SpanPair>,
    /// One over the temperature.
    cool: f32,
    /// Weight of the cross-entropy's slope.
    likelihood: f32,
    /// Weight of the distance's slope to the logits.
    mimicry: f32,
}

/// What a row of logits comes to.
#[derive(Clone, Copy, Default)]
struct Row {
    nll: f32,
    /// Logarithm of the sum of exponentials, and that of the cooled logits.
    lse: [f32; 2],
    /// The target's log-probability, cooled.
    log_prob: f32,
    /// What the distance takes from every logit in proportion to its cooled probability, and gives to the target.
    drawn: f32,
    /// The logits are slopes already.
    done: bool,
}

impl<'a> Part<'a> {
    fn new(student: &Head<'a>, teacher: &Head<'a>, task: &Task, block: Block) -> Self {
        let (rows, theirs) = (block.rows, block.teacher);
        let inside = |span: &SpanPair| SpanPair {
            student: span.student.start - rows.start..span.student.end - rows.start,
            teacher: span.teacher.start - theirs.start..span.teacher.end - theirs.start,
        };
        let options = &task.options;
        Self {
            student: student.narrow(rows.start, rows.len()),
            teacher: teacher.narrow(theirs.start, theirs.len()),
            spans: task.spans[block.spans].iter().map(inside).collect(),
            cool: (1.0 / options.temperature) as f32,
            likelihood: (1.0 - options.alpha) as f32,
            mimicry: (options.alpha / options.temperature) as f32,
        }
    }

    /// Both sums. A gradient to the head is added to what is there already if `add`.
    fn run(&self, wanted: Wanted, add: bool) -> [f64; 2] {
        let slopes = wanted.hidden.is_some() || wanted.head.is_some();
        let (mut logits, mut rows) = self.rows(&self.student);
        let bounded = soft_cap::keep(&logits, self.student.cap, slopes);
        let (mut theirs, their_rows) = self.rows(&self.teacher);
        let distance = self.compare((&mut logits, &mut rows), (&mut theirs, &their_rows), slopes);
        drop(theirs);
        if slopes {
            let Head { hidden, weight, .. } = self.student;
            self.slopes(&mut logits, &rows);
            soft_cap::undo_all(&mut logits, bounded);
            let slopes = Mat::new(&logits, rows.len(), weight.rows());
            if let Some(out) = wanted.hidden {
                gemm(&[Term::new(slopes, weight)], out, hidden.cols(), false, Par::All);
            }
            if let Some(out) = wanted.head {
                gemm(&[Term::new(slopes.t(), hidden)], out, hidden.cols(), add, Par::All);
            }
        }
        [rows.iter().map(|row| f64::from(row.nll)).sum(), distance]
    }

    /// A side's logits, and what there is to say of each row.
    fn rows(&self, side: &Head) -> (scratch::Scratch, Vec<Row>) {
        let (n, vocab) = (side.hidden.rows(), side.weight.rows());
        let (mut logits, mut rows) = (scratch::take(n * vocab), vec![Row::default(); n]);
        if n == 0 {
            return (logits, rows);
        }
        gemm(
            &[Term::new(side.hidden, side.weight.t())],
            &mut logits,
            vocab,
            false,
            Par::All,
        );
        soft_cap::bound_all(&mut logits, side.cap);
        let (logits_of, out) = (&logits, par::Shared::new(&mut rows));
        par::row_blocks(n, vocab, |start, len| {
            for row in start..start + len {
                let (z, target) = (&logits_of[row * vocab..][..vocab], side.targets[row]);
                let lse = sums(z, self.cool);
                // SAFETY: every row belongs to one block.
                let out = unsafe { &mut out.slice(row, 1)[0] };
                *out = Row {
                    nll: lse[0] - z[target],
                    lse,
                    log_prob: self.cool * z[target] - lse[1],
                    ..Row::default()
                };
            }
        });
        (logits, rows)
    }

    /// The distance of all spans. With `slopes`, a span's first row of the student's logits becomes the slope.
    fn compare(
        &self,
        (logits, rows): (&mut [f32], &mut [Row]),
        (theirs, their_rows): (&mut [f32], &[Row]),
        slopes: bool,
    ) -> f64 {
        let [vocab, their_vocab] = [&self.student, &self.teacher].map(|side| side.weight.rows());
        let mut distances = vec![0.0f64; self.spans.len()];
        let [logits, theirs] = [par::Shared::new(logits), par::Shared::new(theirs)];
        let (rows, out) = (par::Shared::new(rows), par::Shared::new(&mut distances));
        par::run(self.spans.len(), |number| {
            let SpanPair { student, teacher } = &self.spans[number];
            // SAFETY: every row belongs to at most one span, and every span is run once.
            let (z, y, rows, out) = unsafe {
                (
                    logits.slice(student.start * vocab, vocab),
                    theirs.slice(teacher.start * their_vocab, their_vocab),
                    rows.slice(student.start, student.len()),
                    out.slice(number, 1),
                )
            };
            let their_rows = &their_rows[teacher.clone()];
            powers(y, self.cool, their_rows[0].lse[1] - later(their_rows));
            y.sort_unstable_by(|a, b| b.total_cmp(a));
            let mut signs = scratch::take(vocab);
            let shared = later(rows);
            let apart = apart(z, y, self.cool, rows[0].lse[1] - shared, &mut signs);
            out[0] = apart.distance;
            rows.iter_mut()
                .for_each(|row| row.drawn = self.mimicry * apart.pull as f32);
            if slopes {
                let row = &mut rows[0];
                first(
                    z,
                    &signs,
                    row,
                    self.cool,
                    [self.likelihood, self.mimicry * shared.exp()],
                );
                z[self.student.targets[student.start]] -= self.likelihood;
                row.done = true;
            }
        });
        distances.iter().sum()
    }

    /// The logits of all other rows become slopes.
    fn slopes(&self, logits: &mut [f32], rows: &[Row]) {
        let vocab = self.student.weight.rows();
        let logits = par::Shared::new(logits);
        par::row_blocks(rows.len(), vocab, |start, len| {
            for (place, row) in rows
                .iter()
                .enumerate()
                .skip(start)
                .take(len)
                .filter(|(_, row)| !row.done)
            {
                // SAFETY: every row belongs to one block.
                let z = unsafe { logits.slice(place * vocab, vocab) };
                other(z, row, self.cool, self.likelihood);
                z[self.student.targets[place]] += row.drawn - self.likelihood;
            }
        });
    }
}

/// Logarithm of the probability of the targets behind a span's first.
fn later(rows: &[Row]) -> f32 {
    rows[1..].iter().map(|row| row.log_prob).sum()
}

/// How far two distributions are apart.
struct Apart {
    distance: f64,
    /// `Σ s · sign(s - t)`.
    pull: f64,
}

thread_local! {
    /// Probabilities with their places, in order.
    static SORTED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The distance of `s = exp(z · cool - shift)` from `t`, largest first, and the sign of the difference for every entry of s; of equal
/// entries the first has the first rank.
fn apart(z: &[f32], t: &[f32], cool: f32, shift: f32, signs: &mut [f32]) -> Apart {
    signs.copy_from_slice(z);
    powers(signs, cool, shift);
    SORTED.with_borrow_mut(|sorted| {
        // Bits of numbers of at least 0 are in the order of the numbers.
        let key = |(place, s): (usize, &f32)| (u64::from(!s.to_bits()) << 32) | place as u64;
        sorted.clear();
        sorted.extend(signs.iter().enumerate().map(key));
        sorted.sort_unstable();
        let (mut distance, mut pull) = (0.0, 0.0);
        for (rank, key) in sorted.iter().enumerate() {
            let s = f32::from_bits(!((key >> 32) as u32));
            let apart = s - t.get(rank).copied().unwrap_or(0.0);
            let sign = if apart == 0.0 { 0.0 } else { apart.signum() };
            signs[*key as u32 as usize] = sign;
            distance += f64::from(apart.abs());
            pull += f64::from(s * sign);
        }
        let missing = t.iter().skip(z.len()).map(|t| f64::from(*t));
        Apart {
            distance: distance + missing.sum::<f64>(),
            pull,
        }
    })
}

multiversion! {
    /// Logarithm of the sum of exponentials, and that of the cooled logits.
    fn sums(z: &[f32], cool: f32) -> [f32; 2] {
        let lse = math::log_sum_exp(z, 1.0);
        [lse, if cool == 1.0 { lse } else { math::log_sum_exp(z, cool) }]
    }

    /// `exp(x · cool - shift)`.
    fn powers(x: &mut [f32], cool: f32, shift: f32) {
        x.iter_mut().for_each(|x| *x = math::exp(*x * cool - shift));
    }

    /// The slope in a span's first row, but for what its target gets; of weights `[likelihood, mimicry]`.
    fn first(z: &mut [f32], signs: &[f32], row: &Row, cool: f32, weights: [f32; 2]) {
        let ([likelihood, mimicry], [lse, cooled]) = (weights, row.lse);
        for (z, sign) in z.iter_mut().zip(signs) {
            let drawn = (mimicry * sign - row.drawn) * math::exp(*z * cool - cooled);
            *z = likelihood * math::exp(*z - lse) + drawn;
        }
    }

    /// The slope in another row, but for what its target gets.
    fn other(z: &mut [f32], row: &Row, cool: f32, likelihood: f32) {
        let ([lse, cooled], drawn) = (row.lse, row.drawn);
        if drawn == 0.0 {
            z.iter_mut().for_each(|z| *z = likelihood * math::exp(*z - lse));
        } else {
            z.iter_mut()
                .for_each(|z| *z = likelihood * math::exp(*z - lse) - drawn * math::exp(*z * cool - cooled));
        }
    }
}
