//! Gradient episodic memory: no step may raise the loss on the memory of any earlier task, to first order.
//!
//! ```text
//! g~ = g + G'v        v: minimize 1/2 v'GG'v + (Gg)'v  subject to  v >= margin        G: a row for every earlier task
//! ```
//!
//! Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 8 to 11. g is the gradient of the step's mean loss over all that trains, together,
//! before clipping; the rows of G are those of the mean losses on the memories, computed anew in every step at the present weights, with
//! dropout off. Where no product Gg is negative, g stays as it is, to the bit. The authors' code adds 1e-3 to the diagonal of GG',
//! which gradients of language models are often smaller than; nothing is added here. A step costs a pass over every memory.

use burn::optim::GradientsParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dual::multipliers;
use super::vector::Vector;
use super::{Copies, Now, Setting, Strategy, StrategyKind, Summed, at_least_one, at_least_zero};
use crate::Result;
use crate::batches::StepBatch;

/// Options of gradient episodic memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GemConfig {
    /// Samples that are remembered of every task.
    pub memories: usize,
    /// Every multiplier is at least this where the gradient is changed at all: steps then lower the earlier losses too. The authors
    /// take 0.5.
    pub margin: f64,
}

impl Default for GemConfig {
    fn default() -> Self {
        Self {
            memories: 32,
            margin: 0.5,
        }
    }
}

impl StrategyKind for GemConfig {
    fn check(&self) -> Vec<String> {
        let wrong = at_least_zero("margin", self.margin).into_iter();
        wrong.chain(at_least_one("memories", self.memories)).collect()
    }

    fn adds_passes(&self) -> bool {
        true
    }

    fn copies(&self, tasks: usize) -> Copies {
        Copies {
            // The gradients of all earlier tasks but the last, and the projected one.
            in_step: tasks.saturating_sub(1),
            ..Copies::default()
        }
    }

    fn build(&self, setting: Setting) -> Box<dyn Strategy> {
        Box::new(Gem {
            options: *self,
            setting,
            memories: Vec::new(),
            conflicts: 0,
        })
    }
}

struct Gem {
    options: GemConfig,
    setting: Setting,
    /// Samples of every earlier task, as far as they were asked for.
    memories: Vec<Vec<usize>>,
    /// Earlier tasks whose loss the last step would have raised.
    conflicts: usize,
}

/// A gradient of a mean loss: a sum and what it is divided by.
struct Mean {
    sum: Vector,
    count: f64,
}

impl Mean {
    fn of(now: &Now<'_>, summed: &Summed) -> Self {
        Self {
            sum: Vector::of(now.model, &summed.grads),
            count: summed.count.max(1) as f64,
        }
    }

    fn dot(&self, other: &Mean) -> f64 {
        self.sum.dot(&other.sum) / (self.count * other.count)
    }
}

impl Strategy for Gem {
    fn project(&mut self, of_step: Summed, batch: &StepBatch, now: &Now<'_>) -> Result<Option<GradientsParams>> {
        let phase = self.setting.phase(batch.step);
        while self.memories.len() < phase {
            let memory = self.setting.memory(self.options.memories, self.memories.len());
            self.memories.push(memory);
        }
        let mut past = Vec::new();
        for memory in &self.memories[..phase] {
            let Some(summed) = (now.gradients)(&self.setting.batch(memory, batch))? else {
                return Ok(None);
            };
            past.push(Mean::of(now, &summed));
        }
        let own = Mean::of(now, &of_step);
        let products: Vec<f64> = past.iter().map(|past| past.dot(&own)).collect();
        self.conflicts = products.iter().filter(|product| **product < 0.0).count();
        // What is no number is for the guard of the run to see.
        if self.conflicts == 0 || products.iter().any(|product| !product.is_finite()) {
            return Ok(Some(of_step.grads));
        }
        let row = |one: &Mean| past.iter().map(|other| one.dot(other)).collect();
        let gram: Vec<Vec<f64>> = past.iter().map(row).collect();
        let weights = multipliers(&gram, &products, self.options.margin);
        let weighted = past.iter().zip(weights);
        let sum = weighted.fold(own.sum, |sum, (past, weight)| {
            sum.plus(&past.sum, weight * own.count / past.count)
        });
        Ok(Some(sum.into_grads(now.model)))
    }

    fn report(&self, line: &mut Map<String, Value>) {
        line.insert("conflicts".into(), self.conflicts.into());
    }
}
