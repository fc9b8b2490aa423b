//! The scale of the loss in the loop: see [`ft_optim::LossScale`].

use ft_optim::{GradNorm, LossScale};

use crate::batches::StepBatch;
use crate::engine::fit::Event;
use crate::engine::session::Session;
use crate::watch::metrics::{StepOutput, Sum};
use crate::{Error, Result};

impl Session {
    /// The batch with what its loss is multiplied by.
    pub(crate) fn with_loss_factor(&self, batch: StepBatch) -> StepBatch {
        StepBatch {
            loss_factor: self.state.loss_scale.map(|scale| scale.factor(batch.target_tokens)),
            ..batch
        }
    }

    /// Whether the scaled gradients left f16, so that the step must be left out; the scale takes note. Waits for the device.
    ///
    /// # Errors
    /// Gradients that overflow without being scaled; what went wrong on the device in this step, before anything is noted.
    pub(crate) fn overflows(&mut self, output: &StepOutput) -> Result<bool> {
        let Some(scale) = &mut self.state.loss_scale else {
            return Ok(false);
        };
        let norm = output.grad_norm.as_ref().map_or(Ok(0.0), GradNorm::try_value);
        let finite = norm.map_err(Error::device)?.is_finite();
        if !finite && scale.is_exhausted() {
            return Err(Error::Overflow {
                step: self.state.step + 1,
            });
        }
        scale.update(finite);
        let LossScale { scale, .. } = *scale;
        if !finite {
            let step = self.state.step + 1;
            (self.on_event)(&Event::Warning(format!(
                "step {step} is left out: a gradient left f16; the loss is scaled by {scale} from here"
            )));
        }
        Ok(!finite)
    }

    /// What a step shows that was left out: nothing was learned.
    pub(crate) fn left_out(&self, output: StepOutput) -> StepOutput {
        StepOutput {
            loss: Sum::Host(0.0),
            count: 0,
            figures: Vec::new(),
            grad_norm: self.grad_norm.clone(),
            ..output
        }
    }
}
