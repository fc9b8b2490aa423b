//! Supervised fine-tuning over tasks whose target tokens do not all weigh the same: `task.loss_weight`.
//!
//! ```text
//! L = - Σ w(task) log p(token | tokens before it) / number of target tokens of the step
//! ```

use std::ops::Range;
use std::sync::Arc;

use ft_data::Batch;
use ft_model::Model;

use super::{HeldOut, Loss, LossFn, Objective, SftConfig, Unit, nll_sum};
use crate::batches::{MicroBatch, StepBatch};
use crate::tasks::Tasks;

/// The objective with a weight for every sample. Held-out samples are judged without weights.
#[derive(Debug)]
pub struct Weighted {
    sft: SftConfig,
    /// Samples and what their tokens weigh.
    weights: Vec<(Range<usize>, f64)>,
}

impl Weighted {
    /// The objective over the tasks, where they weigh differently from 1.
    pub fn of(sft: SftConfig, tasks: &Tasks) -> Arc<dyn Objective> {
        match tasks.0.iter().all(|task| task.loss_weight == 1.0) {
            true => Arc::new(sft),
            false => Arc::new(Self {
                sft,
                weights: tasks
                    .0
                    .iter()
                    .map(|task| (task.train.clone(), task.loss_weight))
                    .collect(),
            }),
        }
    }

    fn weight(&self, sample: usize) -> f64 {
        let own = self.weights.iter().find(|(samples, _)| samples.contains(&sample));
        own.map_or(1.0, |(_, weight)| *weight)
    }

    /// The batch once for every weight in it, with the targets that weigh so much.
    fn parts(&self, batch: &Batch) -> Vec<(f64, Batch)> {
        let of_sequence = |sequence: &i32| {
            let number = batch.numbers.get(*sequence as usize / batch.group);
            number.map_or(1.0, |number| self.weight(*number))
        };
        let weights: Vec<f64> = batch.sequence_of.iter().map(of_sequence).collect();
        let mut distinct = weights.clone();
        distinct.sort_by(f64::total_cmp);
        distinct.dedup();
        let part = |weight: f64| {
            let some = |list: &[i32]| {
                list.iter()
                    .zip(&weights)
                    .filter(|(_, w)| **w == weight)
                    .map(|(x, _)| *x)
                    .collect()
            };
            Batch {
                positions: some(&batch.positions),
                targets: some(&batch.targets),
                sequence_of: some(&batch.sequence_of),
                ..batch.clone()
            }
        };
        distinct.into_iter().map(|weight| (weight, part(weight))).collect()
    }
}

impl Objective for Weighted {
    fn unit(&self) -> Unit {
        self.sft.unit()
    }

    fn noise_alpha(&self) -> f64 {
        self.sft.noise_alpha()
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        let parts = self.parts(&micro.batch);
        LossFn::new(move |model, hidden| {
            let of_part = |(weight, batch): &(f64, Batch)| {
                nll_sum(model, hidden.clone(), batch, self.sft.label_smoothing).mul_scalar(*weight)
            };
            let sum = parts.iter().map(of_part).reduce(|a, b| a + b);
            Loss {
                // Every sample has target tokens.
                sum: sum.expect("a batch with target tokens"),
                figures: Vec::new(),
            }
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        self.sft.held_out(model, batch)
    }
}
