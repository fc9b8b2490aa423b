//! Samples that share rows.
//!
//! ```text
//! passes   a forward pass takes the samples that it would take anyway, one behind the other: the loss of every step stays what it is
//! rows     rows are filled from all samples, once for all epochs; a step is made of rows, and an epoch has fewer steps
//! ```

use ft_data::{Sample, pack_rows, share_rows};
use serde::Serialize;

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
