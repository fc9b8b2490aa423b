//! One optimizer step where each task trains an adapter of its own:
//!
//! ```text
//! for every task with samples in the step    its adapter into the model ─> gradients of its samples, mean and clipping of its own
//! then, once all of them are there           its adapter into the model ─> checks ─> its optimizer
//! ```
//!
//! Each adapter takes the step that it would take alone on these samples. Weights and moments change only when every gradient is there, so
//! that a step that is broken off has changed nothing.

use ft_optim::GradNorm;

use crate::batches::StepBatch;
use crate::engine::model::TrainModel;
use crate::engine::session::{Session, Stepped};
use crate::watch::metrics::StepOutput;
use crate::{Error, Result};

impl Session {
    /// A step of every adapter whose task has samples in the batch; none where someone asked to stop in the middle of it.
    pub(crate) fn step_by_task(
        &mut self,
        slot: &mut Option<TrainModel>,
        batch: &StepBatch,
        lr: f64,
    ) -> Result<Option<Stepped>> {
        let scale = self.state.loss_scale;
        let mut tried = Vec::new();
        for (task, part) in self.batches.parts(batch) {
            self.wear(slot, task)?;
            match self.fitting(slot.as_ref(), &part)? {
                Some(fitting) => tried.push((task, fitting)),
                None => {
                    self.wear(slot, HOME)?;
                    self.state.loss_scale = scale;
                    return Ok(None);
                }
            }
        }
        let (mut passes, mut outputs, mut norms, mut overflows) = (Vec::new(), Vec::new(), Vec::new(), false);
        for (task, (part, tried)) in tried {
            self.wear(slot, task)?;
            self.watch(task);
            let stepped = self.take_step(slot, part, tried, lr)?;
            if !stepped.overflows {
                self.finish_check(lr)?;
            }
            self.watch(task);
            norms.extend(stepped.output.grad_norm.clone());
            overflows |= stepped.overflows;
            passes.extend(stepped.batch.micro_batches);
            outputs.push(stepped.output);
        }
        self.wear(slot, HOME)?;
        let norm = GradNorm::joined(norms);
        self.grad_norm = Some(norm.clone());
        let batch = StepBatch {
            rows: batch.rows.clone(),
            ..StepBatch::new(batch.step, passes)
        };
        let output = StepOutput {
            grad_norm: Some(norm),
            ..StepOutput::joined(outputs)
        };
        Ok(Some(Stepped {
            batch,
            output,
            overflows,
        }))
    }

    /// Puts a task's adapter into the model.
    fn wear(&mut self, slot: &mut Option<TrainModel>, task: usize) -> Result<()> {
        let missing = || Error::Training("no model to put an adapter into".into());
        let train = slot.take().ok_or_else(missing)?;
        let model = self.method.wear(task, train.model, &mut self.optim);
        *slot = Some(TrainModel { model, ..train });
        Ok(())
    }

    /// Lets the check of the first gradients look on, or look away again, where it is this task's turn: only gradients of one adapter say
    /// something of each other.
    fn watch(&mut self, task: usize) {
        if let Some(adapters) = self.method.task_adapters()
            && *adapters.checked.get_or_insert(task) == task
        {
            std::mem::swap(&mut adapters.check, &mut self.check);
        }
    }
}

/// Whose adapter is in the model between two steps.
const HOME: usize = 0;
