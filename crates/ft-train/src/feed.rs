//! From samples to the batches of every step, in an order that is a pure function of (seed, step): nothing of it has to
//! be saved to resume.
//!
//! ```text
//! epoch ──Order──> windows of batch_size · accumulation samples, of similar length
//!                     └── one optimizer step each, cut into micro-batches of batch_size
//! ```
//!
//! Windows, not micro-batches, are what the order is made of: `batch_size` 2 with `accumulation` 4 sees the same samples
//! at every step as 8 with 1. A window never crosses the end of an epoch; the last one may be smaller. The first window of a
//! run is the one that takes the most memory, so that memory runs out at once or not at all.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use ft_data::{Batch, Order, Sample, sub_seed};

/// What one optimizer step is fed.
#[derive(Clone, Debug)]
pub struct Window {
    /// Steps before it.
    pub step: usize,
    /// Its samples, by number.
    pub rows: Vec<usize>,
    /// Forward passes of the step.
    pub micro: Vec<Micro>,
    /// Learned tokens of all of them.
    pub learned: usize,
    /// Tokens of all of them, padding left out.
    pub tokens: usize,
    /// What the loss is multiplied by before the backward pass, where activations are in f16; the gradients are divided by it.
    pub loss_factor: Option<f64>,
}

/// One forward pass.
#[derive(Clone, Debug)]
pub struct Micro {
    /// The padded samples.
    pub batch: Batch,
    /// Seed of this pass's dropout masks.
    pub dropout_seed: u64,
}

/// The training samples and how steps are cut from them.
#[derive(Debug)]
pub struct Feed {
    samples: Vec<Sample>,
    lengths: Vec<usize>,
    batch_size: usize,
    accumulation: usize,
    shuffle: bool,
    longest_first: bool,
    seed: u64,
    pad: Padding,
    /// Steps of the run, as far as they are known.
    reach: usize,
}

/// How rows of different lengths become a rectangle.
#[derive(Clone, Copy, Debug)]
pub struct Padding {
    /// The token that fills.
    pub id: u32,
    /// Widths are rounded up to a multiple of this: 1 on the CPU, more where every new shape costs a compilation.
    pub multiple: usize,
}

impl Feed {
    /// Steps over `samples`, of `accumulation` times `batch_size` samples each.
    pub fn new(
        samples: Vec<Sample>,
        [batch_size, accumulation]: [usize; 2],
        shuffle: bool,
        longest_first: bool,
        seed: u64,
        pad: Padding,
    ) -> Self {
        let lengths = samples.iter().map(Sample::len).collect();
        Self {
            samples,
            lengths,
            batch_size,
            accumulation,
            shuffle,
            longest_first,
            seed,
            pad,
            reach: usize::MAX,
        }
    }

    /// The same for a run of `steps`: samples that it does not come to are not among the [largest](Self::largest).
    pub fn reaching(self, steps: usize) -> Self {
        Self { reach: steps, ..self }
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

    /// Optimizer steps of one pass over the samples.
    pub fn steps_per_epoch(&self) -> usize {
        self.samples.len().div_ceil(self.batch_size * self.accumulation)
    }

    /// Sample indices of every step of an epoch. An order that is not shuffled is the user's, and stays as it is.
    pub fn epoch(&self, epoch: usize) -> Vec<Vec<usize>> {
        let samples = self.batch_size * self.accumulation;
        let mut windows = Order::epoch(&self.lengths, samples, self.seed, epoch as u64, self.shuffle);
        if epoch == 0 && self.shuffle && self.longest_first && !windows.is_empty() {
            let (step, _) = self.largest_of(&windows, self.batch_size);
            windows.swap(0, step);
        }
        windows
    }

    /// The window of samples `rows`, fed at `step` (0 is the first).
    pub fn window(&self, rows: &[usize], step: usize) -> Window {
        self.window_of(rows, step, self.batch_size)
    }

    /// The same samples in micro-batches of `size`: what a run with that `batch_size` is fed at this step.
    pub fn recut(&self, window: &Window, size: usize) -> Window {
        self.window_of(&window.rows, window.step, size)
    }

    fn window_of(&self, rows: &[usize], step: usize, size: usize) -> Window {
        let name = |micro: usize| format!("dropout/{step}/{micro}");
        let micro: Vec<Micro> = rows
            .chunks(size)
            .enumerate()
            .map(|(i, rows)| Micro {
                batch: Batch::new(&self.pick(rows), self.pad.id, self.pad.multiple),
                dropout_seed: sub_seed(self.seed, &name(i)),
            })
            .collect();
        let learned = micro.iter().map(|m| m.batch.learned()).sum();
        let tokens = micro.iter().map(|m| m.batch.tokens()).sum();
        Window {
            step,
            rows: rows.to_vec(),
            micro,
            learned,
            tokens,
            loss_factor: None,
        }
    }

    fn pick(&self, rows: &[usize]) -> Vec<&Sample> {
        rows.iter().map(|r| &self.samples[*r]).collect()
    }

    /// Rows and columns of the micro-batch with the most cells in the first epoch.
    pub fn largest_micro_batch(&self) -> (usize, usize) {
        self.largest(self.batch_size)
    }

    /// The same with the windows cut into micro-batches of `size`.
    pub fn largest(&self, size: usize) -> (usize, usize) {
        self.largest_of(&self.ahead(), size).1
    }

    /// The step, from 1, that has the largest micro-batch of the first epoch.
    pub fn step_of_largest(&self) -> usize {
        self.largest_of(&self.ahead(), self.batch_size).0 + 1
    }

    /// The windows of the first epoch that the run comes to.
    fn ahead(&self) -> Vec<Vec<usize>> {
        let mut windows = self.epoch(0);
        windows.truncate(self.reach);
        windows
    }

    /// The first window with the largest micro-batch of `size`, and its rows and columns; zeros where there is no window.
    fn largest_of(&self, windows: &[Vec<usize>], size: usize) -> (usize, (usize, usize)) {
        let shape = |rows: &[usize]| (rows.len(), rows.iter().map(|r| self.lengths[*r]).max().unwrap_or(0));
        let cut = |(step, window)| <[usize]>::chunks(window, size).map(move |rows| (step, shape(rows)));
        let micro = windows.iter().map(Vec::as_slice).enumerate().flat_map(cut);
        // `max_by_key` takes the last of equals.
        let largest = micro.rev().max_by_key(|(_, (rows, width))| rows * width);
        largest.unwrap_or_default()
    }
}

/// The windows of the steps `from..total`, as burn-train wants them.
#[derive(Clone)]
pub struct StepLoader {
    feed: Arc<Feed>,
    from: usize,
    total: usize,
}

impl StepLoader {
    /// Windows of the steps `from..total`.
    pub fn new(feed: Arc<Feed>, from: usize, total: usize) -> Self {
        Self { feed, from, total }
    }
}

impl DataLoader<Window> for StepLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Window> + 'a> {
        Box::new(StepIter {
            loader: self,
            step: self.from,
            epoch: None,
        })
    }

    fn num_items(&self) -> usize {
        self.total.saturating_sub(self.from)
    }

    /// Batches are plain numbers; the model puts them on its own device.
    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<Window>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Window>> {
        let (from, total) = (self.from + start, (self.from + end).min(self.total));
        Arc::new(Self {
            feed: self.feed.clone(),
            from,
            total,
        })
    }
}

struct StepIter<'a> {
    loader: &'a StepLoader,
    step: usize,
    epoch: Option<(usize, Vec<Vec<usize>>)>,
}

impl Iterator for StepIter<'_> {
    type Item = Result<Window, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.step >= self.loader.total {
            return None;
        }
        let feed = &self.loader.feed;
        let (epoch, index) = (self.step / feed.steps_per_epoch(), self.step % feed.steps_per_epoch());
        let order = match self.epoch.take() {
            Some((number, order)) if number == epoch => order,
            _ => feed.epoch(epoch),
        };
        let window = feed.window(&order[index], self.step);
        self.epoch = Some((epoch, order));
        self.step += 1;
        Some(Ok(window))
    }
}

impl DataLoaderIterator<Window> for StepIter<'_> {
    fn progress(&self) -> Progress {
        let total = self.loader.num_items();
        Progress::new(self.step - self.loader.from, total, Some("steps".into()))
    }
}

/// The held-out samples in batches, longest first.
#[derive(Clone)]
pub struct EvalLoader {
    batches: Arc<Vec<Batch>>,
}

impl EvalLoader {
    /// Batches of at most `batch_size` samples of similar length.
    pub fn new(samples: &[Sample], batch_size: usize, pad: Padding) -> Self {
        Self {
            batches: Arc::new(ft_eval::batches(samples, batch_size, pad.multiple).collect()),
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
