//! From samples to the batches of every step, in an order that is a pure function of (seed, step): nothing of it has to
//! be saved to resume.
//!
//! ```text
//! epoch ──Course──> its samples ──Order──> step batches of batch_size · accumulation samples, of similar length
//!                                             └── one optimizer step each, cut into micro-batches of batch_size
//! ```
//!
//! Step batches, not micro-batches, are what the order is made of: `batch_size` 2 with `accumulation` 4 sees the same samples
//! at every step as 8 with 1. A step batch never crosses the end of an epoch; the last one may be smaller. The first batch of a
//! run is the one that takes the most memory, so that memory runs out at once or not at all.
//!
//! Where rows are packed from all samples, "sample" above reads "row".

pub(crate) mod deal;
mod epochs;
mod loaders;
mod packing;
#[cfg(test)]
mod tests;

use std::ops::Range;

use burn::tensor::Tensor;
use ft_data::{Batch, Sample, let_go, passing, sub_seed};
pub use loaders::{EvalLoader, StepLoader};
use packing::Packed;
pub use packing::Packing;

use crate::tasks::{Course, Mixture, Place};

/// What one optimizer step is fed.
#[derive(Clone, Debug)]
pub struct StepBatch {
    /// Steps before it.
    pub step: usize,
    /// What it is made of, by number: samples, or rows that were packed from all samples.
    pub rows: Vec<usize>,
    /// Forward passes of the step.
    pub micro_batches: Vec<MicroBatch>,
    /// Target tokens of all of them.
    pub target_tokens: usize,
    /// Tokens of all of them, padding left out.
    pub tokens: usize,
    /// What the objective found out before the first forward pass, `[1]`, where it needs that.
    pub baseline: Option<Tensor<1>>,
    /// The model that trains wrote the answers itself.
    pub own_answers: bool,
    /// Whether adapters drop what they are said to, and embeddings get noise.
    pub drops: bool,
    /// What the loss is multiplied by before the backward pass, where activations are in f16; the gradients are divided by it.
    pub loss_factor: Option<f64>,
}

/// How much a whole step holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Target tokens.
    pub tokens: usize,
    /// Examples: samples, or pairs of them.
    pub examples: usize,
    /// What heads are to say.
    pub labels: usize,
    /// Target tokens of the answers that are to become likelier: in pairs, of the chosen ones.
    pub chosen_tokens: usize,
}

impl Totals {
    /// Of several batches.
    pub fn of<'b>(batches: impl IntoIterator<Item = &'b Batch>) -> Self {
        let mut totals = Self {
            tokens: 0,
            examples: 0,
            labels: 0,
            chosen_tokens: 0,
        };
        for batch in batches {
            totals.tokens += batch.target_tokens();
            totals.examples += batch.examples();
            totals.labels += batch.labelled();
            let chosen = batch
                .sequence_of
                .iter()
                .filter(|of| (**of as usize).is_multiple_of(batch.group));
            totals.chosen_tokens += chosen.count();
        }
        totals
    }
}

impl StepBatch {
    /// A step of these forward passes, for who has no [`Batches`] to cut it from.
    pub fn new(step: usize, micro_batches: Vec<MicroBatch>) -> Self {
        Self {
            step,
            rows: Vec::new(),
            target_tokens: micro_batches.iter().map(|m| m.batch.target_tokens()).sum(),
            tokens: micro_batches.iter().map(|m| m.batch.tokens()).sum(),
            micro_batches,
            baseline: None,
            own_answers: false,
            drops: true,
            loss_factor: None,
        }
    }

    /// The same step with batches that `change` makes of its own.
    pub(crate) fn with(&self, change: impl Fn(&Batch) -> Batch) -> Self {
        let micro = self.micro_batches.iter().map(|micro| MicroBatch {
            batch: change(&micro.batch),
            dropout_seed: micro.dropout_seed,
        });
        let micro_batches: Vec<MicroBatch> = micro.collect();
        Self {
            target_tokens: micro_batches.iter().map(|micro| micro.batch.target_tokens()).sum(),
            micro_batches,
            ..self.clone()
        }
    }

    /// How much the step holds.
    pub fn totals(&self) -> Totals {
        Totals::of(self.micro_batches.iter().map(|micro| &micro.batch))
    }
}

/// One forward pass.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// The samples, padded or packed.
    pub batch: Batch,
    /// Seed of this pass's dropout masks.
    pub dropout_seed: u64,
}

/// The training samples and how steps are cut from them.
#[derive(Debug)]
pub struct Batches {
    samples: Vec<Sample>,
    /// Columns of the longest sequence of each.
    lengths: Vec<usize>,
    packed: Packed,
    /// Which of them are fed when.
    course: Course,
    batch_size: usize,
    accumulation: usize,
    shuffle: bool,
    longest_first: bool,
    seed: u64,
    pad: Padding,
    /// Steps of the run, as far as they are known.
    reach: usize,
    /// Samples of tasks that never share a forward pass; none where all may.
    apart: Vec<Range<usize>>,
    /// Processes among whom the forward passes of a step are dealt out.
    ranks: usize,
}

/// How rows of different lengths become a rectangle.
#[derive(Clone, Copy, Debug)]
pub struct Padding {
    /// The token that fills.
    pub id: u32,
    /// Widths are rounded up to a multiple of this: 1 on the CPU, more where every new shape costs a compilation.
    pub multiple: usize,
}

impl Batches {
    /// Steps over `samples`, of `accumulation` times `batch_size` samples each.
    pub fn new(
        samples: Vec<Sample>,
        [batch_size, accumulation]: [usize; 2],
        shuffle: bool,
        longest_first: bool,
        seed: u64,
        pad: Padding,
    ) -> Self {
        let lengths = samples.iter().map(Sample::width).collect();
        Self {
            course: Course::of(Mixture::whole(0..samples.len())),
            samples,
            lengths,
            packed: Packed::default(),
            batch_size,
            accumulation,
            shuffle,
            longest_first,
            seed,
            pad,
            reach: usize::MAX,
            apart: Vec::new(),
            ranks: 1,
        }
    }

    /// The same with forward passes that never hold samples of two of these ranges.
    pub fn apart(self, tasks: Vec<Range<usize>>) -> Self {
        Self { apart: tasks, ..self }
    }

    /// The samples of a step by task, those of no task left out; all of them where tasks share forward passes.
    fn by_task(&self, rows: &[usize]) -> Vec<(usize, Vec<usize>)> {
        if self.apart.is_empty() {
            return vec![(0, rows.to_vec())];
        }
        let own = |range: &Range<usize>| {
            rows.iter()
                .copied()
                .filter(|row| range.contains(row))
                .collect::<Vec<_>>()
        };
        let parts = self.apart.iter().map(own).enumerate();
        parts.filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// A step cut into a step for each of the tasks that it has samples of, with the numbers of the tasks.
    pub fn parts(&self, batch: &StepBatch) -> Vec<(usize, StepBatch)> {
        let parts = self.by_task(&batch.rows).into_iter();
        parts
            .map(|(task, rows)| (task, self.step_batch(&rows, batch.step)))
            .collect()
    }

    /// The same with the samples in another order than all of them once in every epoch; before [`packed`](Self::packed).
    pub fn along(self, course: Course) -> Self {
        Self { course, ..self }
    }

    /// The columns of what steps are made of: samples, or packed rows.
    fn items(&self) -> &[usize] {
        match self.packed.packing {
            Packing::Rows(_) => &self.packed.row_lengths,
            Packing::Off | Packing::Passes(_) => &self.lengths,
        }
    }

    /// The same for a run of `steps`: samples that it does not come to are not among the [largest](Self::largest).
    pub fn reaching(self, steps: usize) -> Self {
        Self { reach: steps, ..self }
    }

    /// The same where the model itself may write so many tokens after a prompt: they count in the [largest](Self::largest).
    pub fn answering(self, tokens: usize) -> Self {
        let longest = |sample: &Sample| sample.width().max(sample.prompt().len() + tokens);
        let lengths = match tokens {
            0 => self.lengths,
            _ => passing(&self.samples).map(longest).collect(),
        };
        Self { lengths, ..self }
    }

    /// The same steps, cut into micro-batches of `size`.
    pub fn cut(self, size: usize) -> Self {
        let samples = self.batch_size * self.accumulation;
        Self {
            batch_size: size,
            accumulation: samples.div_ceil(size),
            ..self
        }
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Samples of a step.
    pub fn step_samples(&self) -> usize {
        self.batch_size * self.accumulation
    }

    /// Optimizer steps of one pass over the samples, phase by phase.
    pub fn steps_per_epoch(&self) -> usize {
        let steps = self
            .course
            .list()
            .iter()
            .map(|phase| phase.steps_per_epoch(self.step_samples()));
        steps.sum()
    }

    /// Which samples are fed when.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// Where a step is in the course.
    pub fn place(&self, step: usize) -> Place {
        self.course.place(step, self.step_samples())
    }

    /// The batch of samples or packed rows `rows`, fed at `step` (0 is the first).
    pub fn step_batch(&self, rows: &[usize], step: usize) -> StepBatch {
        self.step_batch_of(rows, step, self.batch_size)
    }

    /// The same samples in micro-batches of `size`: what a run with that `batch_size` is fed at this step.
    pub fn recut(&self, batch: &StepBatch, size: usize) -> StepBatch {
        self.step_batch_of(&batch.rows, batch.step, size)
    }

    fn step_batch_of(&self, rows: &[usize], step: usize, size: usize) -> StepBatch {
        let name = |micro: usize| format!("dropout/{step}/{micro}");
        let micro: Vec<MicroBatch> = self
            .passes(rows, size)
            .into_iter()
            .enumerate()
            .map(|(i, rows)| MicroBatch {
                batch: self.batch(rows),
                dropout_seed: sub_seed(self.seed, &name(i)),
            })
            .collect();
        StepBatch {
            rows: rows.to_vec(),
            ..StepBatch::new(step, micro)
        }
    }

    fn batch(&self, items: &[usize]) -> Batch {
        let Padding { id, multiple } = self.pad;
        let pick = |row: &Vec<usize>| row.iter().map(|i| &self.samples[*i]).collect::<Vec<_>>();
        let rows = self.packed.layout(items);
        let batch = match self.packed.packing {
            Packing::Off => Batch::new(&rows.iter().flat_map(pick).collect::<Vec<_>>(), id, multiple),
            Packing::Passes(_) | Packing::Rows(_) => {
                Batch::packed(&rows.iter().map(pick).collect::<Vec<_>>(), id, multiple)
            }
        };
        let numbers = rows.concat();
        let_go(numbers.iter().map(|i| &self.samples[*i]));
        batch.numbered(&numbers)
    }

    /// Rows and columns of the micro-batch with the most cells in the first epoch.
    pub fn largest_micro_batch(&self) -> (usize, usize) {
        self.largest(self.batch_size)
    }

    /// The same with the step batches cut into micro-batches of `size`.
    pub fn largest(&self, size: usize) -> (usize, usize) {
        let ahead = self.ahead();
        self.largest_of(ahead.iter().map(|(step, rows)| (*step, rows)), size).1
    }

    /// The step, from 1, that has the largest micro-batch of the first epoch.
    pub fn step_of_largest(&self) -> usize {
        let ahead = self.ahead();
        let ahead = ahead.iter().map(|(step, rows)| (*step, rows));
        self.largest_of(ahead, self.batch_size).0 + 1
    }

    /// The step batches of the first epoch of every phase that the run comes to, with their steps.
    fn ahead(&self) -> Vec<(usize, Vec<usize>)> {
        let phases = self.course.list().iter().enumerate();
        let first = phases.flat_map(|(number, phase)| {
            let steps = phase.steps.min(self.reach.saturating_sub(phase.start));
            let batches = self.epoch_of(number, 0).into_iter().take(steps);
            batches.enumerate().map(|(i, rows)| (phase.start + i, rows))
        });
        first.collect()
    }

    /// The first batch with the largest micro-batch of `size`, and its rows and columns; zeros where there is no batch.
    fn largest_of<'b>(
        &self,
        step_batches: impl DoubleEndedIterator<Item = (usize, &'b Vec<usize>)>,
        size: usize,
    ) -> (usize, (usize, usize)) {
        let cut = |(step, batch): (usize, &'b Vec<usize>)| {
            let parts = self.by_task(batch);
            let passes = parts.iter().flat_map(|(_, rows)| rows.chunks(size));
            let shapes: Vec<_> = passes.map(|items| (step, self.shape(&self.packed, items))).collect();
            shapes
        };
        let micro = step_batches.flat_map(cut);
        // `max_by_key` takes the last of equals.
        let largest = micro.rev().max_by_key(|(_, (rows, width))| rows * width);
        largest.unwrap_or_default()
    }

    /// Rows and columns of a forward pass.
    fn shape(&self, packed: &Packed, items: &[usize]) -> (usize, usize) {
        match packed.packing {
            Packing::Off => {
                let sequences = items.iter().map(|i| self.samples[*i].rows()).sum::<usize>();
                (sequences, items.iter().map(|i| self.lengths[*i]).max().unwrap_or(0))
            }
            Packing::Passes(_) | Packing::Rows(_) => packed.shape(items),
        }
    }
}
