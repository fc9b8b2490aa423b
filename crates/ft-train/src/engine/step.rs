//! One optimizer step, top to bottom:
//!
//! ```text
//! gradients of every micro-batch, summed ─> penalties ─> changed as a whole ─> mean over the target tokens, clipping
//!     ─> f16 overflow? not a number? ─> checks and hooks see them ─> optimizer
//! ```
//!
//! The other way to take a step, parameter by parameter inside the backward pass, is in `in_backward`.

use burn::optim::GradientsParams;
use burn::train::TrainOutput;
use ft_optim::{scale_and_clip, scale_and_clip_by};

use crate::batches::StepBatch;
use crate::continual::Summed;
use crate::engine::method_hook::MethodHook;
use crate::engine::model::TrainModel;
use crate::engine::non_finite::Bad;
use crate::engine::over_ranks;
use crate::engine::session::{Session, Stepped};
use crate::engine::shards::Shards;
use crate::watch::metrics::StepOutput;
use crate::{Error, Result};

/// Gradients that the optimizer may take.
pub(crate) struct Tried {
    pub output: StepOutput,
    /// Clipped, of the step's mean loss.
    pub grads: GradientsParams,
    /// They left f16.
    pub overflows: bool,
    /// Loss or gradient is no number.
    pub bad: Option<Bad>,
}

impl TrainModel {
    /// The gradients that a step hands to the optimizer: of the mean loss of `batch` and of the penalties, changed by the
    /// strategy where there is one, clipped to a global norm of `clip`. None when `go_on` is false between two forward passes.
    ///
    /// # Errors
    /// What the objective's own forward passes run into.
    pub fn step_gradients(
        &self,
        hook: &mut MethodHook,
        batch: &StepBatch,
        clip: Option<f64>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<TrainOutput<StepOutput>>> {
        let gradients = match hook.objective(&self.objective) {
            Some(objective) => self.minimizing(objective).gradients(batch, go_on)?,
            None => self.gradients(batch, go_on)?,
        };
        let Some(TrainOutput { grads, item }) = gradients else {
            return Ok(None);
        };
        let count = item.count;
        let of_step = Summed {
            grads: hook.penalize(&self.model, grads, count),
            count,
            figures: Vec::new(),
        };
        let Some(grads) = hook.project(self, of_step, batch, go_on)? else {
            return Ok(None);
        };
        let factor = 1.0 / item.count.max(1) as f64;
        let (grads, norm) = match self.ranks.scatters() {
            false => scale_and_clip(self, grads, factor, clip),
            true => {
                let squares = over_ranks::squares(&self.ranks, self, &grads)?;
                scale_and_clip_by(self, grads, factor, clip, squares)
            }
        };
        let item = StepOutput {
            grad_norm: Some(norm),
            ..item
        };
        Ok(Some(TrainOutput { grads, item }))
    }
}

impl Session {
    /// One optimizer step with all gradients at hand; none where someone asked to stop in the middle of it.
    pub(crate) fn step_after_backward(
        &mut self,
        slot: &mut Option<TrainModel>,
        batch: &StepBatch,
        lr: f64,
    ) -> Result<Option<Stepped>> {
        let Some((batch, tried)) = self.fitting(slot.as_ref(), batch)? else {
            return Ok(None);
        };
        self.take_step(slot, batch, tried, lr).map(Some)
    }

    /// Hands gradients to the optimizer, unless they may not be used.
    pub(crate) fn take_step(
        &mut self,
        slot: &mut Option<TrainModel>,
        batch: StepBatch,
        tried: Tried,
        lr: f64,
    ) -> Result<Stepped> {
        let Tried {
            output,
            grads,
            overflows,
            bad,
        } = tried;
        self.log.dump(self.state.step, lr, &batch)?;
        let output = match bad {
            _ if overflows => self.left_out(output),
            Some(bad) => self.skip(bad, &batch, output)?,
            None => {
                self.accept(slot.as_ref(), &output, &grads, &batch)?;
                let train = slot.take().ok_or_else(|| Error::Training("no model to train".into()))?;
                let model = self.optimize(lr, train.model, grads)?;
                *slot = Some(TrainModel { model, ..train });
                output
            }
        };
        Ok(Stepped {
            batch,
            output,
            overflows,
        })
    }

    /// The gradients of a step and whether they may be used; nothing has changed where it fails.
    pub(crate) fn try_step(&mut self, model: &TrainModel, batch: &StepBatch) -> Result<Option<Tried>> {
        let stop = self.stop.clone();
        let go_on = || !stop.asked();
        let clip = self.steps.clip;
        let Some(TrainOutput { grads, item }) = model.step_gradients(&mut self.method, batch, clip, &go_on)? else {
            return Ok(None);
        };
        let item = match self.guard.is_some() || self.state.loss_scale.is_some() {
            true => item.read()?,
            false => item,
        };
        // The judge first: an overflow moves the scale, which a step taken again must find as it was.
        let judged = self.guard.as_ref().map(|guard| guard.judge(&item));
        let bad = judged.transpose()?.flatten();
        let overflows = self.overflows(&item)?;
        Ok(Some(Tried {
            output: item,
            grads,
            overflows,
            bad,
        }))
    }

    /// Takes note of a step that is about to be taken.
    fn accept(
        &mut self,
        model: Option<&TrainModel>,
        output: &StepOutput,
        grads: &GradientsParams,
        batch: &StepBatch,
    ) -> Result<()> {
        if let Some(model) = model {
            if let Some(check) = &mut self.check {
                let own = self.ranks.scatters().then(|| Shards::of(&model.model, &self.ranks));
                let own = own.map(|shards| shards.ids(self.ranks.rank()));
                check.look(&model.model, grads, batch, own.as_ref());
            }
            self.method.observe(&model.model, grads);
        }
        self.grad_norm = output.grad_norm.clone();
        self.count_loss(output)
    }
}
