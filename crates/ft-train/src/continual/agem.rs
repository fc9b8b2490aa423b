//! Averaged gradient episodic memory: no step may raise the loss on samples of all memories together, to first order.
//!
//! ```text
//! g'r < 0:  g~ = g - (g'r / r'r) r        r: the gradient on samples drawn from the memories of all earlier tasks
//! ```
//!
//! Chaudhry et al. 2019, arXiv:1812.00420, eq. 11. g is the gradient over all that trains, together, before clipping; where the product is
//! not negative, it stays as it is, to the bit. A step costs one pass over the drawn samples, however many tasks there were; they are
//! drawn anew for every step, and dropout is off.

use burn::optim::GradientsParams;
use ft_data::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::vector::Vector;
use super::{Copies, Now, Setting, Strategy, StrategyKind, Summed, at_least_one};
use crate::Result;
use crate::batches::StepBatch;

/// Options of averaged gradient episodic memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgemConfig {
    /// Samples that are remembered of every task.
    pub memories: usize,
    /// Samples drawn from all memories in a step; as many as the step has of its own where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<usize>,
}

impl Default for AgemConfig {
    fn default() -> Self {
        Self {
            memories: 256,
            sample: None,
        }
    }
}

impl StrategyKind for AgemConfig {
    fn check(&self) -> Vec<String> {
        let wrong = at_least_one("memories", self.memories).into_iter();
        wrong
            .chain(self.sample.and_then(|n| at_least_one("sample", n)))
            .collect()
    }

    fn adds_passes(&self) -> bool {
        true
    }

    fn copies(&self, _: usize) -> Copies {
        Copies {
            // The projected one.
            in_step: 1,
            ..Copies::default()
        }
    }

    fn build(&self, setting: Setting) -> Box<dyn Strategy> {
        Box::new(Agem {
            options: *self,
            setting,
            memory: Vec::new(),
            phases: 0,
            conflict: false,
        })
    }
}

struct Agem {
    options: AgemConfig,
    setting: Setting,
    /// Samples of the first `phases` tasks.
    memory: Vec<usize>,
    phases: usize,
    /// Whether the last step would have raised the loss on the memories.
    conflict: bool,
}

impl Strategy for Agem {
    fn project(&mut self, of_step: Summed, batch: &StepBatch, now: &Now<'_>) -> Result<Option<GradientsParams>> {
        self.conflict = false;
        let (setting, phase) = (&self.setting, self.setting.phase(batch.step));
        while self.phases < phase {
            self.memory.extend(setting.memory(self.options.memories, self.phases));
            self.phases += 1;
        }
        if phase == 0 {
            return Ok(Some(of_step.grads));
        }
        let count = self.options.sample.unwrap_or(setting.batches.step_samples());
        let mut rng = stream(setting.seed, &format!("agem/{}", batch.step));
        let rows = setting.draw(&self.memory, count, &mut rng);
        let Some(past) = (now.gradients)(&setting.batch(&rows, batch))? else {
            return Ok(None);
        };
        let (own, past) = (
            Vector::of(now.model, &of_step.grads),
            Vector::of(now.model, &past.grads),
        );
        let (product, length) = (own.dot(&past), past.dot(&past));
        // What is no number is for the guard of the run to see.
        self.conflict = product < 0.0 && length > 0.0 && (product / length).is_finite();
        match self.conflict {
            false => Ok(Some(of_step.grads)),
            true => Ok(Some(own.plus(&past, -product / length).into_grads(now.model))),
        }
    }

    fn report(&self, line: &mut Map<String, Value>) {
        line.insert("conflicts".into(), usize::from(self.conflict).into());
    }
}
