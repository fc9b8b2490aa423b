//! Samples that share rows.
//!
//! ```text
//! passes   a forward pass takes the samples that it would take anyway, one behind the other: the loss of every step stays what it is
//! rows     rows are filled from all samples, once for all epochs; a step is made of rows, and an epoch has fewer steps
//! ```

use ft_data::{Batch, Sample, pack_rows, share_rows};
use serde::Serialize;

use super::{Batches, StepBatch};
use crate::tasks::{Course, Mixture};

/// Which samples share rows, and of how many tokens at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "length", rename_all = "lowercase")]
pub enum Packing {
    /// None: every sequence has a row of its own.
    #[default]
    Off,
    /// Those of a forward pass.
    Passes(usize),
    /// All of them.
    Rows(usize),
}

/// How the samples of a run are packed.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub packing: Packing,
    /// Columns of every sample, those of prompts among them.
    lengths: Vec<usize>,
    /// Columns of a prompt before every sequence.
    prompt: usize,
    /// The samples of every row, where rows are made of all of them, and the row's columns.
    rows: Vec<Vec<usize>>,
    pub row_lengths: Vec<usize>,
}

impl Packed {
    /// Of samples that take so many columns each, behind `prompt` columns before each of their sequences; rows are drawn from `seed`, or
    /// keep the samples' order.
    pub fn new(
        packing: Packing,
        samples: &[Sample],
        columns: impl Fn(usize) -> usize,
        prompt: usize,
        seed: Option<u64>,
    ) -> Self {
        let length = |(i, sample): (usize, &Sample)| columns(i) + prompt * sample.rows();
        let lengths: Vec<usize> = samples.iter().enumerate().map(length).collect();
        let rows = match packing {
            Packing::Rows(length) => pack_rows(&lengths, length, seed),
            Packing::Off | Packing::Passes(_) => Vec::new(),
        };
        let row_lengths = rows.iter().map(|row| row.iter().map(|i| lengths[*i]).sum()).collect();
        Self {
            packing,
            lengths,
            prompt,
            rows,
            row_lengths,
        }
    }

    /// The samples of every row of a forward pass over `items`: samples, or rows where those are made of all samples.
    pub fn layout(&self, items: &[usize]) -> Vec<Vec<usize>> {
        match self.packing {
            Packing::Off => items.iter().map(|sample| vec![*sample]).collect(),
            Packing::Passes(length) => share_rows(items, &self.lengths, length),
            Packing::Rows(_) => items.iter().map(|row| self.rows[*row].clone()).collect(),
        }
    }

    /// Rows of such a pass, and columns beside one prompt.
    pub fn shape(&self, items: &[usize]) -> (usize, usize) {
        let widest = |rows: &mut dyn Iterator<Item = usize>| rows.max().unwrap_or(0).saturating_sub(self.prompt);
        match self.packing {
            Packing::Rows(_) => (items.len(), widest(&mut items.iter().map(|row| self.row_lengths[*row]))),
            _ => {
                let rows = self.layout(items);
                let columns = rows.iter().map(|row| row.iter().map(|i| self.lengths[*i]).sum());
                (rows.len(), widest(&mut { columns }))
            }
        }
    }
}

impl Batches {
    /// The same with samples that share rows, behind `prompt` columns before each of their sequences; after
    /// [`answering`](Self::answering). Rows that are made of all samples come once in every epoch, in whatever order the samples were to.
    pub fn packed(self, packing: Packing, prompt: usize) -> Self {
        let packed = self.pack(packing, prompt);
        let course = match packing {
            Packing::Rows(_) => Course::of(Mixture::whole(0..packed.row_lengths.len())),
            Packing::Off | Packing::Passes(_) => self.course,
        };
        Self { packed, course, ..self }
    }

    fn pack(&self, packing: Packing, prompt: usize) -> Packed {
        let seed = self.shuffle.then_some(self.seed);
        let columns = |i: usize| self.samples[i].tokens().max(self.lengths[i]);
        Packed::new(packing, &self.samples, columns, prompt, seed)
    }

    /// How samples share rows.
    pub fn packing(&self) -> Packing {
        self.packed.packing
    }

    /// Cells of all forward passes of an epoch, padding and `prompt` columns before every sequence included.
    pub fn cells_per_epoch(&self, prompt: usize) -> usize {
        self.cells(&self.packed, prompt)
    }

    /// The same if the samples of these passes shared rows.
    pub fn cells_sharing(&self, length: usize, prompt: usize) -> usize {
        self.cells(&self.pack(Packing::Passes(length), prompt), prompt)
    }

    /// Columns of all sequences of an epoch, each with its `prompt` columns.
    pub fn columns_per_epoch(&self, prompt: usize) -> usize {
        let items = self.first_epochs().concat();
        let samples = self.packed.layout(&items).concat();
        let columns = |sample: &Sample| sample.tokens() + prompt * sample.rows();
        samples.iter().map(|i| columns(&self.samples[*i])).sum()
    }

    /// The step batches of the first epoch of every phase.
    pub(super) fn first_epochs(&self) -> Vec<Vec<usize>> {
        let phases = 0..self.course.list().len();
        phases.flat_map(|phase| self.epoch_of(phase, 0)).collect()
    }

    fn cells(&self, packed: &Packed, prompt: usize) -> usize {
        let step_batches = self.first_epochs();
        let parts: Vec<_> = step_batches.iter().flat_map(|batch| self.by_task(batch)).collect();
        let passes = parts.iter().flat_map(|(_, rows)| rows.chunks(self.batch_size));
        let cells = |(rows, width): (usize, usize)| rows * (prompt + width.next_multiple_of(self.pad.multiple));
        passes.map(|items| cells(self.shape(packed, items))).sum()
    }

    /// Samples, or packed rows, of the largest forward pass of a step.
    pub fn largest_pass(&self, batch: &StepBatch) -> usize {
        let items = |batch: &Batch| match self.packed.packing {
            Packing::Off | Packing::Passes(_) => batch.examples(),
            Packing::Rows(_) => batch.rows,
        };
        let passes = batch.micro_batches.iter().map(|micro| items(&micro.batch));
        passes.max().unwrap_or(0)
    }

    /// What steps are made of.
    pub fn item(&self) -> &'static str {
        match self.packed.packing {
            Packing::Off | Packing::Passes(_) => "samples",
            Packing::Rows(_) => "packed rows",
        }
    }
}
