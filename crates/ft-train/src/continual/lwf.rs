//! Learning without forgetting: on the new task's samples, the model also learns from itself as it was before the task.
//!
//! ```text
//! L = L_task + α KL(p ‖ q)        p, q: probabilities of the model as it was at the end of the task before, and now, at temperature T
//! ```
//!
//! Li and Hoiem 2016, arXiv:1606.09282, eq. 2 to 4, with the weight and temperature of mammoth, which likewise leaves out T²: no sample
//! of an earlier task is needed. The divergence is taken at the positions that predict a target token, and is a mean over them. What is kept are
//! the values of what trains; the rest of the earlier model is that of the present one. A step costs a forward pass more.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use ft_data::Batch;
use ft_kernels::{DistillationOptions, Teacher, distillation};
use ft_model::Model;
use ft_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::vector::Vector;
use super::{Copies, Now, Setting, Strategy, StrategyKind, at_least_zero};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};
use crate::objectives::{Figure, HeldOut, Loss, LossFn, Objective, Unit, at_targets, teacher_states};

/// Options of learning without forgetting.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LwfConfig {
    /// α: weight of the divergence from the model as it was.
    pub alpha: f64,
    /// T: both models' logits are divided by it.
    pub temperature: f64,
}

impl Default for LwfConfig {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            temperature: 2.0,
        }
    }
}

impl StrategyKind for LwfConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong: Vec<String> = at_least_zero("alpha", self.alpha).into_iter().collect();
        if !self.temperature.is_finite() || self.temperature <= 0.0 {
            wrong.push("continual.temperature: must be a number above 0".into());
        }
        wrong
    }

    fn distills(&self) -> bool {
        self.alpha > 0.0
    }

    fn copies(&self, _: usize) -> Copies {
        Copies {
            kept: usize::from(self.alpha > 0.0),
            in_step: 0,
            teaches: self.alpha > 0.0,
        }
    }

    fn build(&self, _: Setting) -> Box<dyn Strategy> {
        Box::new(Lwf {
            options: *self,
            before: None,
        })
    }
}

struct Lwf {
    options: LwfConfig,
    /// Once a task has ended: the values then, and the model with them.
    before: Option<(Vector, Arc<Model>)>,
}

/// The name of the values in a checkpoint.
const BEFORE: &str = "before";

impl Strategy for Lwf {
    fn objective(&self, of_run: &Arc<dyn Objective>) -> Option<Arc<dyn Objective>> {
        let (_, teacher) = self.before.as_ref()?;
        Some(Arc::new(Beside {
            of_run: of_run.clone(),
            teacher: teacher.clone(),
            options: self.options,
        }))
    }

    fn end_task(&mut self, _: usize, now: &Now<'_>) -> Result<bool> {
        if self.options.alpha > 0.0 {
            // The one before goes first.
            self.before = None;
            let values = Vector::values(now.model).copied();
            let teacher = Arc::new(values.put(now.model));
            self.before = Some((values, teacher));
        }
        Ok(true)
    }

    fn state(&self, model: &Model) -> Vec<(String, TensorData)> {
        let before = self.before.as_ref();
        before.map_or(Vec::new(), |(values, _)| values.saved(BEFORE, model))
    }

    fn load_state(&mut self, model: &Model, tensors: Vec<(String, TensorData)>) -> std::result::Result<(), String> {
        if tensors.is_empty() {
            return Ok(());
        }
        let mut tensors: HashMap<String, TensorData> = tensors.into_iter().collect();
        let values = Vector::load(BEFORE, model, &mut tensors)?;
        let teacher = Arc::new(values.put(model));
        self.before = Some((values, teacher));
        Ok(())
    }
}

/// The run's objective with the divergence beside it, from the same hidden states.
#[derive(Debug)]
struct Beside {
    of_run: Arc<dyn Objective>,
    teacher: Arc<Model>,
    options: LwfConfig,
}

impl Beside {
    /// The sum of the divergence over the target tokens, `[1]`.
    fn divergence(&self, model: &Model, hidden: Tensor<3>, batch: &Batch, teacher: Teacher) -> Tensor<1> {
        let (hidden, targets) = at_targets(hidden, batch);
        let (hidden, head) = model.head_product(hidden);
        let options = DistillationOptions {
            alpha: 1.0,
            beta: 0.0,
            temperature: self.options.temperature,
            t_squared: false,
        };
        distillation(hidden, head, targets, teacher, options).loss
    }
}

impl Objective for Beside {
    fn unit(&self) -> Unit {
        self.of_run.unit()
    }

    fn noise_alpha(&self) -> f64 {
        self.of_run.noise_alpha()
    }

    fn begin(&self, model: &Model, batch: &StepBatch, ranks: &Ranks) -> Result<Option<StepBatch>> {
        self.of_run.begin(model, batch, ranks)
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a> {
        let of_run = self.of_run.loss(micro, step);
        let (hidden, head) = teacher_states(&self.teacher, &micro.batch);
        let teacher = Teacher::Live { hidden, head };
        // A mean over target tokens beside a mean over the run's units.
        let totals = step.totals();
        let weight = self.options.alpha * self.unit().of(totals) as f64 / totals.tokens.max(1) as f64;
        of_run.then(move |model, hidden, Loss { sum, mut figures }| {
            let divergence = self.divergence(model, hidden, &micro.batch, teacher.clone());
            figures.push(Figure {
                name: "from_before",
                sum: divergence.clone().without_autodiff(),
                count: micro.batch.target_tokens(),
            });
            Loss {
                sum: sum + divergence.mul_scalar(weight),
                figures,
            }
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        self.of_run.held_out(model, batch)
    }
}
