//! Batches as burn-train's loaders.

use std::ops::Range;
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use ft_data::{Batch, Sample};

use super::{Batches, Padding, StepBatch};
use crate::tasks::Place;

/// The batches of the steps `from..total`, as burn-train wants them.
#[derive(Clone)]
pub struct StepLoader {
    batches: Arc<Batches>,
    from: usize,
    total: usize,
}

impl StepLoader {
    /// Windows of the steps `from..total`.
    pub fn new(batches: Arc<Batches>, from: usize, total: usize) -> Self {
        Self { batches, from, total }
    }
}

impl DataLoader<StepBatch> for StepLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<StepBatch> + 'a> {
        Box::new(StepIter {
            loader: self,
            step: self.from,
            order: None,
        })
    }

    fn num_items(&self) -> usize {
        self.total.saturating_sub(self.from)
    }

    /// Batches are plain numbers; the model puts them on its own device.
    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<StepBatch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<StepBatch>> {
        let (from, total) = (self.from + start, (self.from + end).min(self.total));
        Arc::new(Self {
            batches: self.batches.clone(),
            from,
            total,
        })
    }
}

struct StepIter<'a> {
    loader: &'a StepLoader,
    step: usize,
    order: Option<EpochOrder>,
}

/// The step batches of an epoch of a phase.
struct EpochOrder {
    phase: usize,
    epoch: usize,
    steps: Vec<Vec<usize>>,
}

impl Iterator for StepIter<'_> {
    type Item = Result<StepBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.step >= self.loader.total {
            return None;
        }
        let batches = &self.loader.batches;
        let Place { phase, epoch, index } = batches.place(self.step);
        let order = match self.order.take() {
            Some(order) if (order.phase, order.epoch) == (phase, epoch) => order,
            _ => EpochOrder {
                phase,
                epoch,
                steps: batches.epoch_of(phase, epoch),
            },
        };
        let batch = batches.step_batch(&order.steps[index], self.step);
        self.order = Some(order);
        self.step += 1;
        Some(Ok(batch))
    }
}

impl DataLoaderIterator<StepBatch> for StepIter<'_> {
    fn progress(&self) -> Progress {
        let total = self.loader.num_items();
        Progress::new(self.step - self.loader.from, total, Some("steps".into()))
    }
}

/// The held-out samples in batches, longest first, task by task.
#[derive(Clone)]
pub struct EvalLoader {
    batches: Arc<Vec<Batch>>,
}

impl EvalLoader {
    /// Batches of at most `batch_size` samples of similar length, each within one of the ranges.
    pub fn new(samples: &[Sample], ranges: &[Range<usize>], batch_size: usize, pad: Padding) -> Self {
        let within = |range: &Range<usize>| {
            let first = range.start;
            let batches = ft_eval::batches(&samples[range.clone()], batch_size, pad.multiple);
            batches.map(move |mut batch| {
                batch.numbers.iter_mut().for_each(|number| *number += first);
                batch
            })
        };
        Self {
            batches: Arc::new(ranges.iter().flat_map(within).collect()),
        }
    }
}

impl DataLoader<Batch> for EvalLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(EvalIter {
            batches: &self.batches,
            next: 0,
        })
    }

    fn num_items(&self) -> usize {
        self.batches.len()
    }

    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let end = end.min(self.batches.len());
        Arc::new(Self {
            batches: Arc::new(self.batches[start.min(end)..end].to_vec()),
        })
    }
}

struct EvalIter<'a> {
    batches: &'a [Batch],
    next: usize,
}

impl Iterator for EvalIter<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.get(self.next)?.clone();
        self.next += 1;
        Some(Ok(batch))
    }
}

impl DataLoaderIterator<Batch> for EvalIter<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.next, self.batches.len(), Some("batches".into()))
    }
}
