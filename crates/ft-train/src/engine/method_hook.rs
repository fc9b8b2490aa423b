//! The method's own part in the loop, where it has one: [`ft_peft::Regime`] around optimizer and checkpoints.

use std::path::Path;

use burn::optim::{GradientsAccumulator, GradientsParams};
use ft_model::Model;
use ft_peft::{Adaptable, PeftConfig, TrainingHook};
use serde_json::Value;

use crate::checkpoint::{HOOK, read_tensors, write_tensors};
use crate::{Error, Result};

/// Does nothing for most methods.
pub struct MethodHook(Option<Box<dyn TrainingHook>>);

impl MethodHook {
    /// That of a method before the first step.
    pub fn of(method: &PeftConfig) -> Self {
        Self(method.method().training_hook())
    }

    /// Adds the gradient of the method's penalty to that of a loss that is summed over `count` units, so that the penalty
    /// counts once in the mean.
    pub fn penalize(&mut self, model: &Model, grads: GradientsParams, count: usize) -> GradientsParams {
        // The copy shares every tensor; a list of places needs a model of its own.
        let penalty =
            |training_hook: &mut Box<dyn TrainingHook>| training_hook.penalty(&mut model.clone().target_modules());
        let Some(penalty) = self.0.as_mut().and_then(penalty) else {
            return grads;
        };
        let own = penalty.mul_scalar(count.max(1) as f64).backward();
        let mut both = GradientsAccumulator::new();
        both.accumulate(model, grads);
        both.accumulate(model, GradientsParams::from_grads(own, model));
        both.grads()
    }

    /// Shows it what the optimizer is about to use.
    pub fn observe(&mut self, model: &Model, grads: &GradientsParams) {
        if let Some(training_hook) = &mut self.0 {
            training_hook.observe(&mut model.clone().target_modules(), grads);
        }
    }

    /// The optimizer has taken step number `step`.
    pub fn moved(&mut self, model: &mut Model, step: usize) {
        if let Some(training_hook) = &mut self.0 {
            training_hook.moved(&mut model.target_modules(), step);
        }
    }

    /// Puts its numbers into a line of the log.
    pub fn report(&self, line: &mut Value) {
        if let (Some(training_hook), Value::Object(line)) = (&self.0, line) {
            line.extend(training_hook.report());
        }
    }

    /// Writes its state into a checkpoint.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match &self.0 {
            Some(training_hook) => write_tensors(&folder.join(HOOK), &training_hook.state()),
            None => Ok(()),
        }
    }

    /// Reads it back, and with it what it has done to the adapters of `model`.
    pub fn load(&mut self, folder: &Path, model: &mut Model) -> Result<()> {
        let Some(training_hook) = &mut self.0 else {
            return Ok(());
        };
        let path = folder.join(HOOK);
        training_hook
            .load_state(&mut model.target_modules(), read_tensors(&path)?)
            .map_err(|e| Error::checkpoint(&path, e.to_string()))
    }
}
