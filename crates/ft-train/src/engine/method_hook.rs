//! What is done around a step beside the gradients of its samples: by the method, where it has a part in the loop
//! ([`ft_peft::TrainingHook`]), and by the strategy against forgetting, where tasks come one after the other ([`Strategy`]); and what becomes of the adapter between two of
//! them ([`Succession`]).

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use ft_model::Model;
use ft_optim::Optim;
use ft_peft::{Adaptable, PeftConfig, TrainingHook};
use serde_json::Value;

use crate::batches::StepBatch;
use crate::checkpoint::{CONTINUAL, EARLIER, HOOK, read_tensors, write_tensors};
use crate::continual::{Next, Now, Strategy, Succession, Summed};
use crate::engine::model::TrainModel;
use crate::engine::task_adapters::TaskAdapters;
use crate::objectives::Objective;
use crate::{Error, Result};

/// Does nothing for most methods and most runs.
pub struct MethodHook {
    method: Option<Box<dyn TrainingHook>>,
    strategy: Option<Box<dyn Strategy>>,
    succession: Option<Succession>,
    adapters: Option<TaskAdapters>,
}

impl MethodHook {
    /// That of a method before the first step.
    pub fn of(method: &PeftConfig) -> Self {
        Self {
            method: method.method().training_hook(),
            strategy: None,
            succession: None,
            adapters: None,
        }
    }

    /// Whether nobody has a part in the step, who would want to see all gradients.
    pub(crate) fn is_plain(&self) -> bool {
        self.method.is_none() && self.strategy.is_none() && self.adapters.is_none()
    }

    /// The same with a strategy against forgetting.
    pub fn with(self, strategy: Option<Box<dyn Strategy>>) -> Self {
        Self { strategy, ..self }
    }

    /// The same with an adapter for every task.
    pub fn followed(self, succession: Option<Succession>) -> Self {
        Self { succession, ..self }
    }

    /// The same with adapters of tasks that train side by side.
    pub(crate) fn beside(self, adapters: Option<TaskAdapters>) -> Self {
        Self { adapters, ..self }
    }

    /// The adapters of tasks that train side by side.
    pub(crate) fn task_adapters(&mut self) -> Option<&mut TaskAdapters> {
        self.adapters.as_mut()
    }

    /// The model with a task's adapter, and its optimizer in the place of the one that is there; as they are where tasks share one.
    pub(crate) fn wear(&mut self, task: usize, model: Model, optim: &mut Optim) -> Model {
        match &mut self.adapters {
            Some(adapters) => adapters.wear(task, model, optim),
            None => model,
        }
    }

    /// The model for the next task, where it has an adapter of its own; the model as it is otherwise.
    ///
    /// # Errors
    /// An adapter that cannot be folded or attached.
    pub(crate) fn follow(&mut self, model: Model) -> Result<(Model, bool)> {
        match &mut self.succession {
            Some(succession) => Ok((succession.follow(model)?, true)),
            None => Ok((model, false)),
        }
    }

    /// Whether tasks train adapters of their own side by side.
    pub(crate) fn has_task_adapters(&self) -> bool {
        self.adapters.is_some()
    }

    /// Whether each task has a model of its own.
    pub(crate) fn separates(&self) -> bool {
        self.adapters.is_some() || self.next() == Next::Separate
    }

    /// What becomes of the adapter between two tasks.
    pub(crate) fn next(&self) -> Next {
        self.succession.as_ref().map_or(Next::Continue, Succession::next)
    }

    /// The model, on a plain device, as it is for a task, or for text of no task.
    ///
    /// # Errors
    /// An adapter that cannot be attached.
    pub(crate) fn model_of(&self, model: &Model, task: Option<usize>) -> Result<Model> {
        if let (Some(adapters), Some(task)) = (&self.adapters, task)
            && let Some(own) = adapters.model_of(model, task)
        {
            return Ok(own);
        }
        let own = self
            .succession
            .as_ref()
            .map(|succession| succession.model_of(model, task));
        Ok(own.transpose()?.flatten().unwrap_or_else(|| model.valid()))
    }

    /// Numbers of the training samples that the strategy feeds beside those of step `step`, which feeds `samples` of its own.
    pub fn mix(&mut self, step: usize, samples: usize) -> Vec<usize> {
        self.strategy
            .as_mut()
            .map_or(Vec::new(), |strategy| strategy.mix(step, samples))
    }

    /// The objective of the next step, where it is not the run's own.
    pub fn objective(&self, of_run: &Arc<dyn Objective>) -> Option<Arc<dyn Objective>> {
        self.strategy.as_ref()?.objective(of_run)
    }

    /// Adds the gradients of the penalties to that of a loss that is summed over `count` units, so that each penalty
    /// counts once in the mean.
    pub fn penalize(&mut self, model: &Model, grads: GradientsParams, count: usize) -> GradientsParams {
        let grads = match &mut self.strategy {
            Some(strategy) => strategy.penalize(model, grads, count),
            None => grads,
        };
        // The copy shares every tensor; a list of places needs a model of its own.
        let penalty =
            |training_hook: &mut Box<dyn TrainingHook>| training_hook.penalty(&mut model.clone().target_modules());
        let Some(penalty) = self.method.as_mut().and_then(penalty) else {
            return grads;
        };
        let own = penalty.mul_scalar(count.max(1) as f64).backward();
        let mut both = GradientsAccumulator::new();
        both.accumulate(model, grads);
        both.accumulate(model, GradientsParams::from_grads(own, model));
        both.grads()
    }

    /// Lets the strategy change the gradient of everything that trains. None when `go_on` is false between two forward passes.
    ///
    /// # Errors
    /// What the forward passes that this takes run into.
    pub fn project(
        &mut self,
        train: &TrainModel,
        of_step: Summed,
        batch: &StepBatch,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<GradientsParams>> {
        match &mut self.strategy {
            Some(strategy) => at(train, go_on, |now| strategy.project(of_step, batch, now)),
            None => Ok(Some(of_step.grads)),
        }
    }

    /// Task `task` has ended, and another follows. False when `go_on` was false before everything was done.
    ///
    /// # Errors
    /// What the forward passes that this takes run into.
    pub fn end_task(&mut self, train: &TrainModel, task: usize, go_on: &dyn Fn() -> bool) -> Result<bool> {
        match &mut self.strategy {
            Some(strategy) => at(train, go_on, |now| strategy.end_task(task, now)),
            None => Ok(true),
        }
    }

    /// Shows the method what the optimizer is about to use.
    pub fn observe(&mut self, model: &Model, grads: &GradientsParams) {
        if let Some(training_hook) = &mut self.method {
            training_hook.observe(&mut model.clone().target_modules(), grads);
        }
    }

    /// The optimizer has taken step number `step`.
    pub fn moved(&mut self, model: &mut Model, step: usize) {
        if let Some(training_hook) = &mut self.method {
            training_hook.moved(&mut model.target_modules(), step);
        }
    }

    /// Puts its numbers into a line of the log.
    pub fn report(&self, line: &mut Value) {
        let Value::Object(line) = line else { return };
        if let Some(training_hook) = &self.method {
            line.extend(training_hook.report());
        }
        if let Some(strategy) = &self.strategy {
            strategy.report(line);
        }
    }

    /// Writes its state into a checkpoint.
    pub fn save(&self, folder: &Path, model: &Model) -> Result<()> {
        if let Some(training_hook) = &self.method {
            write_tensors(&folder.join(HOOK), &training_hook.state())?;
        }
        if let Some(succession) = &self.succession {
            write_tensors(&folder.join(EARLIER), &succession.state(model))?;
        }
        if let Some(adapters) = &self.adapters {
            adapters.save(folder, model)?;
        }
        match &self.strategy {
            Some(strategy) => write_tensors(&folder.join(CONTINUAL), &strategy.state(model)),
            None => Ok(()),
        }
    }

    /// The model with what earlier tasks have left in it, before what trains is read back.
    pub fn restore(&mut self, folder: &Path, model: Model) -> Result<Model> {
        let Some(succession) = &mut self.succession else {
            return Ok(model);
        };
        let path = folder.join(EARLIER);
        let restored = succession.restore(model, read_tensors(&path)?);
        restored.map_err(|why| Error::checkpoint(&path, why))
    }

    /// Reads it back, and with it what it has done to the adapters of `model`.
    pub fn load(&mut self, folder: &Path, model: &mut Model) -> Result<()> {
        if let Some(training_hook) = &mut self.method {
            let path = folder.join(HOOK);
            training_hook
                .load_state(&mut model.target_modules(), read_tensors(&path)?)
                .map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        }
        if let Some(adapters) = &mut self.adapters {
            adapters.load(folder, model)?;
        }
        let Some(strategy) = &mut self.strategy else {
            return Ok(());
        };
        let path = folder.join(CONTINUAL);
        let loaded = strategy.load_state(model, read_tensors(&path)?);
        loaded.map_err(|why| Error::checkpoint(&path, why))
    }
}

/// Lets a strategy look at the model as it is.
fn at<T>(train: &TrainModel, go_on: &dyn Fn() -> bool, look: impl FnOnce(&Now<'_>) -> T) -> T {
    let summed = |train: &TrainModel, batch: &StepBatch| {
        let output = train.gradients(batch, go_on)?;
        Ok(output.map(|output| Summed {
            grads: output.grads,
            count: output.item.count,
            figures: output.item.figures,
        }))
    };
    look(&Now {
        model: &train.model,
        gradients: &|batch| summed(train, batch),
        of: &|objective, batch| summed(&train.minimizing(objective), batch),
        alone: &|objective, batch| summed(&train.minimizing(objective).alone(), batch),
        ranks: &train.ranks,
        go_on,
    })
}
