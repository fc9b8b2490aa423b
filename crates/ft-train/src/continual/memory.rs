//! What is remembered of earlier tasks: numbers of training samples, a function of (seed, phase). Held-out samples have no such
//! numbers.

use std::collections::HashSet;

use ft_data::{below, shuffle, stream};

use super::Setting;
use crate::batches::StepBatch;

/// Samples from a buffer beside the `samples` of step `step`: `ratio` as many; where that is no whole number, some steps have one more.
pub(super) fn share(step: usize, samples: usize, ratio: f64) -> usize {
    let share = ratio * samples as f64;
    let until = |step: usize| (step as f64 * share).floor() as usize;
    until(step + 1) - until(step)
}

impl Setting {
    /// The samples that a phase has fed when it is over, each once, in the order in which they first came.
    fn fed(&self, phase: usize) -> Vec<usize> {
        let (batches, phase_of) = (&self.batches, &self.batches.course().list()[phase]);
        let per_epoch = phase_of.steps_per_epoch(batches.step_samples()).max(1);
        // A mixture of one task has fed everything after one epoch.
        let steps = phase_of.steps.min(per_epoch);
        let rows = batches.epoch_of(phase, 0).into_iter().take(steps).flatten();
        let mut seen = HashSet::new();
        rows.filter(|row| seen.insert(*row)).collect()
    }

    /// Algorithm R (Vitter 1985) over what the phases before `phase` have fed: every sample of them is among the `size` with the
    /// same probability.
    pub(super) fn reservoir(&self, size: usize, phase: usize) -> Vec<usize> {
        let mut rng = stream(self.seed, "reservoir");
        let mut kept = Vec::new();
        let fed = (0..phase).flat_map(|phase| self.fed(phase));
        for (before, row) in fed.enumerate() {
            match kept.len() < size {
                true => kept.push(row),
                false => {
                    let place = below(&mut rng, before + 1);
                    if let Some(kept) = kept.get_mut(place) {
                        *kept = row;
                    }
                }
            }
        }
        kept
    }

    /// At most `size` of the samples that a phase has fed, drawn evenly.
    pub(super) fn memory(&self, size: usize, phase: usize) -> Vec<usize> {
        let mut rng = stream(self.seed, &format!("memory of phase {phase}"));
        self.draw(&self.fed(phase), size, &mut rng)
    }

    /// At most `count` of the rows, without repetition.
    pub(super) fn draw(&self, rows: &[usize], count: usize, rng: &mut ft_data::ChaCha8Rng) -> Vec<usize> {
        let mut order = rows.to_vec();
        shuffle(&mut order, rng);
        order.truncate(count);
        order
    }

    /// These samples in forward passes as large as those of `like`, at its step, with nothing dropped.
    pub(super) fn batch(&self, rows: &[usize], like: &StepBatch) -> StepBatch {
        let size = like.micro_batches.iter().map(|micro| micro.batch.examples()).max();
        let wanted = StepBatch {
            rows: rows.to_vec(),
            ..StepBatch::new(like.step, Vec::new())
        };
        StepBatch {
            loss_factor: like.loss_factor,
            drops: false,
            ..self.batches.recut(&wanted, size.unwrap_or(1).max(1))
        }
    }

    /// The phase of a step.
    pub(super) fn phase(&self, step: usize) -> usize {
        self.batches.course().phase_at(step)
    }
}
