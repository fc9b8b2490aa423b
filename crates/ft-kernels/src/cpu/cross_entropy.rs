//! The language-model head and its loss, one block of the vocabulary at a time.
//!
//! ```text
//!  for each block of rows, for each block of the vocabulary:
//!    logits = h · W_blockᵀ            [rows, block], one reused buffer
//!    new maximum m, e = exp(logits - m), s += Σ e          (earlier sums are rescaled)
//!    g += e · W_block                 the gradient, not yet divided by s
//!  nll = m + ln s - logit(target),   g = g / s - W[target]
//! ```
//! The gradient needs no second product with the head and no row of probabilities is ever complete. Bounded logits are bounded in the
//! buffer, and e and W[target] times their slopes.
use super::gemm::{Mat, Par, Term, gemm};
use super::isa::multiversion;
use super::{math, par, scratch, soft_cap};

/// Rows that share one reading of the head.
const ROWS: usize = 1024;
/// Logits in the buffer.
const LOGITS: usize = 1 << 20;

/// One head and the rows it is applied to.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// `[n, d]`.
    pub(crate) hidden: Mat<'a>,
    /// `[vocab, d]`.
    pub(crate) weight: Mat<'a>,
    /// `[n]`, each below the vocabulary's size.
    pub(crate) targets: &'a [usize],
    /// Bounds the logits.
    pub(crate) cap: Option<f32>,
}

/// Per row: negative log likelihood in nats and the logarithm of the sum of exponentials.
pub(crate) struct Losses {
    pub(crate) nll: Vec<f32>,
    pub(crate) lse: Vec<f32>,
}

/// A block of the vocabulary for the rows at hand.
struct Block<'a> {
    start: usize,
    width: usize,
    weight: Mat<'a>,
}

impl<'a> Head<'a> {
    /// The losses; with `gradient` `[n, d]` also that of their sum with respect to the hidden states.
    pub(crate) fn losses(&self, mut gradient: Option<&mut [f32]>) -> Losses {
        let (n, d) = (self.hidden.rows(), self.hidden.cols());
        let mut losses = Losses {
            nll: vec![0.0; n],
            lse: vec![0.0; n],
        };
        for start in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - start);
            let part = self.narrow(start, rows);
            let gradient = gradient.as_deref_mut().map(|g| &mut g[start * d..][..rows * d]);
            let range = start..start + rows;
            part.block_losses(&mut losses.nll[range.clone()], &mut losses.lse[range], gradient);
        }
        losses
    }

    /// Gradients of `Σ scale · nll`, scale `[n]`: added to `hidden` `[n, d]` and `head` `[vocab, d]`, both zero at first.
    pub(crate) fn gradients(&self, lse: &[f32], scale: &[f32], mut hidden: Option<&mut [f32]>, head: &mut [f32]) {
        let (n, d) = (self.hidden.rows(), self.hidden.cols());
        for start in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - start);
            let part = self.narrow(start, rows);
            let hidden = hidden.as_deref_mut().map(|g| &mut g[start * d..][..rows * d]);
            let range = start..start + rows;
            part.block_gradients(&lse[range.clone()], &scale[range], hidden, head, start > 0);
        }
    }

    pub(crate) fn narrow(&self, start: usize, rows: usize) -> Head<'a> {
        Head {
            hidden: self.hidden.narrow_rows(start, rows),
            targets: &self.targets[start..start + rows],
            ..*self
        }
    }

    /// Columns of a block: a multiple of the register tile's width.
    fn step(&self) -> usize {
        (LOGITS / self.hidden.rows().max(1)).clamp(512, 8192) / 32 * 32
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let (vocab, weight) = (self.weight.rows(), self.weight);
        let step = self.step();
        (0..vocab).step_by(step).map(move |start| {
            let width = step.min(vocab - start);
            Block {
                start,
                width,
                weight: weight.narrow_rows(start, width),
            }
        })
    }

    fn logits(&self, block: &Block, out: &mut [f32]) {
        gemm(
            &[Term::new(self.hidden, block.weight.t())],
            out,
            block.width,
            false,
            Par::All,
        );
        soft_cap::bound_all(out, self.cap);
    }

    fn block_losses(&self, nll: &mut [f32], lse: &mut [f32], mut gradient: Option<&mut [f32]>) {
        let (rows, d) = (self.hidden.rows(), self.hidden.cols());
        let mut buffer = scratch::take(rows * self.step().min(self.weight.rows()));
        let mut state: Vec<Row> = self.targets.iter().map(|&target| Row::new(target)).collect();
        for block in self.blocks() {
            let logits = &mut buffer[..rows * block.width];
            self.logits(&block, logits);
            let bounded = soft_cap::keep(logits, self.cap, gradient.is_some());
            advance(&mut state, logits, &block, gradient.as_deref_mut(), d);
            soft_cap::undo_all(logits, bounded);
            if let Some(gradient) = gradient.as_deref_mut() {
                let e = Mat::new(logits, rows, block.width);
                gemm(&[Term::new(e, block.weight)], gradient, d, block.start > 0, Par::All);
            }
        }
        for ((row, nll), lse) in state.iter().zip(nll).zip(lse) {
            *lse = row.max + row.sum.ln();
            *nll = *lse - row.logit;
        }
        if let Some(gradient) = gradient {
            self.finish(&state, gradient);
        }
    }

    /// `g / s - W[target]`, the latter times the slope of its logit.
    fn finish(&self, state: &[Row], gradient: &mut [f32]) {
        let d = self.hidden.cols();
        let shared = par::Shared::new(gradient);
        par::row_blocks(state.len(), d, |start, len| {
            let mut target = scratch::take(d);
            for (row, state) in state[start..start + len].iter().enumerate() {
                self.weight.narrow_rows(state.target, 1).widen(&mut target);
                // SAFETY: every row belongs to one block.
                let row = unsafe { shared.slice((start + row) * d, d) };
                subtract_scaled(row, 1.0 / state.sum, &target, soft_cap::slope(state.logit, self.cap));
            }
        });
    }

    fn block_gradients(&self, lse: &[f32], scale: &[f32], mut hidden: Option<&mut [f32]>, head: &mut [f32], add: bool) {
        let (rows, d) = (self.hidden.rows(), self.hidden.cols());
        let mut buffer = scratch::take(rows * self.step().min(self.weight.rows()));
        for block in self.blocks() {
            let logits = &mut buffer[..rows * block.width];
            self.logits(&block, logits);
            let bounded = soft_cap::keep(logits, self.cap, true);
            self.slopes(&block, lse, scale, logits);
            soft_cap::undo_all(logits, bounded);
            let slopes = Mat::new(logits, rows, block.width);
            if let Some(hidden) = hidden.as_deref_mut() {
                gemm(&[Term::new(slopes, block.weight)], hidden, d, block.start > 0, Par::All);
            }
            let out = &mut head[block.start * d..][..block.width * d];
            gemm(&[Term::new(slopes.t(), self.hidden)], out, d, add, Par::All);
        }
    }

    /// Turns logits into `scale · (p - onehot)`.
    fn slopes(&self, block: &Block, lse: &[f32], scale: &[f32], logits: &mut [f32]) {
        let shared = par::Shared::new(logits);
        par::row_blocks(lse.len(), block.width, |start, len| {
            for row in start..start + len {
                let (lse, scale) = (lse[row], scale[row]);
                // SAFETY: every row belongs to one block.
                let logits = unsafe { shared.slice(row * block.width, block.width) };
                probabilities(logits, lse, scale);
                if let Some(logit) = self.targets[row]
                    .checked_sub(block.start)
                    .and_then(|i| logits.get_mut(i))
                {
                    *logit -= scale;
                }
            }
        });
    }
}

/// The running softmax of one row.
#[derive(Clone, Copy)]
struct Row {
    target: usize,
    logit: f32,
    max: f32,
    sum: f32,
}

impl Row {
    fn new(target: usize) -> Self {
        Self {
            target,
            logit: 0.0,
            max: f32::NEG_INFINITY,
            sum: 0.0,
        }
    }

    /// Takes in a block of logits, which become exponentials; returns what earlier sums must be multiplied by.
    fn advance(&mut self, logits: &mut [f32], start: usize) -> f32 {
        if let Some(&logit) = self.target.checked_sub(start).and_then(|i| logits.get(i)) {
            self.logit = logit;
        }
        let max = self.max.max(row_max(logits));
        let factor = (self.max - max).exp();
        self.sum = self.sum * factor + row_exp_sum(logits, max);
        self.max = max;
        factor
    }
}

/// Advances all rows, rescaling their gradients where the maximum has grown.
fn advance(state: &mut [Row], logits: &mut [f32], block: &Block, gradient: Option<&mut [f32]>, d: usize) {
    let (rows, width) = (state.len(), block.width);
    let (state, logits) = (par::Shared::new(state), par::Shared::new(logits));
    let gradient = gradient.map(par::Shared::new);
    par::row_blocks(rows, width, |start, len| {
        for row in start..start + len {
            // SAFETY: every row belongs to one block.
            let (state, logits) = unsafe { (&mut state.slice(row, 1)[0], logits.slice(row * width, width)) };
            let factor = state.advance(logits, block.start);
            if let Some(gradient) = &gradient
                && factor != 1.0
                && block.start > 0
            {
                // SAFETY: as above.
                multiply(unsafe { gradient.slice(row * d, d) }, factor);
            }
        }
    });
}

multiversion! {
    fn row_max(x: &[f32]) -> f32 {
        math::max(x)
    }
    fn row_exp_sum(x: &mut [f32], shift: f32) -> f32 {
        math::exp_sum(x, shift)
    }
    fn multiply(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }
    fn subtract_scaled(x: &mut [f32], factor: f32, y: &[f32], slope: f32) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x = *x * factor - y * slope);
    }
    fn probabilities(x: &mut [f32], lse: f32, scale: f32) {
        x.iter_mut().for_each(|x| *x = scale * math::exp(*x - lse));
    }
}
