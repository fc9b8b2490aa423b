//! What a run writes down while it goes: `metrics.jsonl`, TensorBoard's file, and the input of every step where that is wanted.

use serde_json::{Value, json};

use super::history::{Done, MetricsFile};
use super::tensorboard::EventFile;
use crate::batches::StepBatch;
use crate::engine::rows_of;
use crate::{Plan, Result};

/// The files.
pub struct RunLog {
    metrics: Option<MetricsFile>,
    board: Option<EventFile>,
    /// Where every step's input is written.
    dump: Option<MetricsFile>,
}

impl RunLog {
    /// Writes nothing: of several processes, one writes.
    pub fn none() -> Self {
        Self {
            metrics: None,
            board: None,
            dump: None,
        }
    }

    /// Those of a run; a resumed one goes on behind `done`.
    ///
    /// # Errors
    /// Files that cannot be opened.
    pub fn open(plan: &Plan, done: Option<Done>) -> Result<Self> {
        let train = &plan.config.train;
        let path = |name| plan.out().join(name);
        let dump = train.dump_batches.as_ref();
        let board = Some(&train.tensorboard).filter(|name| !name.as_os_str().is_empty());
        Ok(Self {
            metrics: Some(MetricsFile::open(&plan.out().join("metrics.jsonl"), done)?),
            board: board.map(|name| EventFile::open(&path(name), done)).transpose()?,
            dump: dump.map(|name| MetricsFile::open(&path(name), done)).transpose()?,
        })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn push(&mut self, line: &Value) -> Result<()> {
        if let Some(metrics) = &mut self.metrics {
            metrics.push(line)?;
        }
        match &mut self.board {
            Some(board) => board.push(line),
            None => Ok(()),
        }
    }

    /// Writes the input of the step after `done` steps.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn dump(&mut self, done: usize, lr: f64, batch: &StepBatch) -> Result<()> {
        let Some(file) = &mut self.dump else { return Ok(()) };
        let batches: Vec<_> = batch.micro_batches.iter().map(|m| rows_of(&m.batch)).collect();
        file.push(&json!({ "step": done + 1, "lr": lr, "batches": batches }))
    }

    /// Waits until the lines are on the disk.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn sync(&mut self) -> Result<()> {
        self.metrics.as_mut().map_or(Ok(()), MetricsFile::sync)
    }
}
