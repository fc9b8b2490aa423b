//! Several tasks in one run: which samples are whose, and which are fed when.
//!
//! ```text
//! [[task]] tables ─> Tasks (ranges of the samples) ─> Course: phases ─> rows of an epoch ─> Batches
//!                                                      a mixture of all tasks, or one task after the other
//! ```

mod best_by;
mod course;
mod mixture;

pub use best_by::{BestBy, pooled};
pub use course::{Course, Phase, Place};
pub use mixture::{Mixture, Share};

use std::ops::Range;

/// The tasks of a run: each has a range of the training samples and one of the held-out ones, both in the order of the tables.
/// Nothing where the run has no `[[task]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tasks(pub Vec<Task>);

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Its training samples.
    pub train: Range<usize>,
    /// Its held-out samples.
    pub valid: Range<usize>,
    /// What the loss of its target tokens is multiplied by.
    pub loss_weight: f64,
}

impl Tasks {
    /// The names.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|task| task.name.as_str()).collect()
    }

    /// The task of a training sample.
    pub fn of_sample(&self, row: usize) -> Option<usize> {
        self.0.iter().position(|task| task.train.contains(&row))
    }

    /// The ranges of the held-out samples that are evaluated by themselves, out of `count`: one for every task.
    pub fn held_out(&self, count: usize) -> Vec<Range<usize>> {
        match self.0.is_empty() {
            true => std::iter::once(0..count).collect(),
            false => self.0.iter().map(|task| task.valid.clone()).collect(),
        }
    }
}
