//! The loop: what happens at every optimizer step, evaluation and checkpoint.
//!
//! ```text
//! loop  evaluation due? ─> save due? ─> finished, interrupted or out of patience? ─> one optimizer step
//! ```
//!
//! The order matters for an exact resume: whatever a checkpoint says was done is done before it is written, and a run that
//! resumes from it takes the same branches.

use std::sync::Arc;

use ft_optim::{GradNorm, Optim};
use serde_json::json;

use crate::batches::{Batches, StepBatch};
use crate::checkpoint::{Checkpoints, TrainerState};
use crate::engine::agree::Told;
use crate::engine::clock::Clock;
use crate::engine::early_stopping::SharedPatience;
use crate::engine::fit::Event;
use crate::engine::gradient_check::GradientCheck;
use crate::engine::memory_limit::Memory;
use crate::engine::method_hook::MethodHook;
use crate::engine::model::TrainModel;
use crate::engine::non_finite::{Bad, Guard};
use crate::engine::save::{Saver, States};
use crate::engine::task_end::OverTasks;
use crate::engine::together::Together;
use crate::engine::unread::Unread;
use crate::plan::Steps;
use crate::tasks::{BestBy, Tasks};
use crate::watch::Ending;
use crate::watch::completions::CompletionsFile;
use crate::watch::metrics::{StepOutput, Sum};
use crate::watch::run_log::RunLog;
use crate::watch::stop::Stop;
use crate::watch::task_metrics::TaskMetrics;
use crate::{Error, Result};

/// A step that was taken or left out.
pub(crate) struct Stepped {
    /// As it was cut.
    pub batch: StepBatch,
    pub output: StepOutput,
    /// It was left out because gradients left f16.
    pub overflows: bool,
}

/// What the loop holds and changes.
pub struct Session {
    /// How many steps, and what happens at which.
    pub steps: Steps,
    /// Where the run stands.
    pub state: TrainerState,
    /// The optimizer with its moments.
    pub optim: Optim,
    /// The method's own part in a step.
    pub method: MethodHook,
    /// Writes checkpoints.
    pub saver: Saver,
    /// What is written down.
    pub log: RunLog,
    /// Looks at the first gradients.
    pub check: Option<GradientCheck>,
    /// Answers at every evaluation.
    pub answers: Option<CompletionsFile>,
    /// Looks at the loss and gradient of every step.
    pub guard: Option<Guard>,
    /// Whether to go on.
    pub stop: Stop,
    /// Told about everything worth telling.
    pub on_event: Box<dyn FnMut(&Event) + Send>,
    /// Whether parameters are updated inside the backward pass.
    pub in_backward: bool,
    /// Whether reading a number back from the device costs nothing.
    pub cheap_reads: bool,
    /// Losses of steps that are still on the device.
    pub unread: Unread,
    /// Norm of the last gradient.
    pub grad_norm: Option<GradNorm>,
    /// Running time since the last logged step.
    pub clock: Clock,
    /// Early stopping's memory, shared with burn-train.
    pub patience: SharedPatience,
    /// Cuts a batch anew where memory runs out.
    pub batches: Arc<Batches>,
    /// Whose the samples are.
    pub tasks: Tasks,
    /// Where tasks come one after the other.
    pub over_tasks: Option<OverTasks>,
    /// Lets the model answer for the metrics of tasks.
    pub task_metrics: Option<TaskMetrics>,
    /// What the best evaluation goes by.
    pub best_by: BestBy,
    /// What the process may take, and what else takes less.
    pub memory: Memory,
    /// The processes that take the run together.
    pub ranks: Together,
    /// Whether each of them holds the optimizer's states of a part of what trains.
    pub shard_optimizer: bool,
    /// Warnings for the first of them.
    pub told: Told,
}

impl Session {
    /// Steps done.
    pub fn step(&self) -> usize {
        self.state.step
    }

    /// Whether an evaluation belongs here and has not been made.
    pub fn evaluation_due(&self) -> bool {
        self.steps.evaluates_at(self.state.step) && self.state.evaluated != Some(self.state.step)
    }

    /// Whether a checkpoint belongs here and has not been written.
    pub fn save_due(&self) -> bool {
        let step = self.state.step;
        let improved = self.steps.load_best && self.state.best.as_ref().is_some_and(|b| b.step == step);
        step > 0 && self.saver.newest != Some(step) && (self.steps.saves_at(step) || improved || self.saver.soon)
    }

    /// Why the loop should end here, if it should.
    pub fn ending(&self) -> Option<Ending> {
        let impatient = self
            .steps
            .early_stopping
            .is_some_and(|rule| self.state.patience.failed >= rule.patience);
        match () {
            // Only a stop leaves an evaluation, or the end of a task, undone.
            () if self.evaluation_due() || self.task_end_due() => self.stop.asked().then_some(Ending::Interrupted),
            () if self.finished() => Some(Ending::Finished),
            () if impatient => Some(Ending::EarlyStopped),
            () => self.stop.asked().then_some(Ending::Interrupted),
        }
    }

    /// Whether every planned step was taken.
    pub fn finished(&self) -> bool {
        self.state.step >= self.steps.total
    }

    /// One optimizer step; none where someone asked to stop in the middle of it, and nothing has changed then. The model is
    /// moved through the optimizer, so that its weights can be written in place.
    pub fn train(&mut self, slot: &mut Option<TrainModel>, batch: &StepBatch) -> Result<Option<StepOutput>> {
        self.clock.run();
        let lr = self.steps.lr(self.state.step);
        let mixed = self.mixed(batch);
        let batch = mixed.as_ref().unwrap_or(batch);
        let stepped = match self.in_backward {
            true => Some(self.step_in_backward(slot, batch, lr)?),
            false if self.method.has_task_adapters() => self.step_by_task(slot, batch, lr)?,
            false => self.step_after_backward(slot, batch, lr)?,
        };
        let Some(Stepped {
            batch,
            output,
            overflows,
        }) = stepped
        else {
            return Ok(None);
        };
        self.advance(&batch);
        if let Some(TrainModel { model, .. }) = slot {
            self.method.moved(model, self.state.step);
        }
        if !overflows {
            self.finish_check(lr)?;
        }
        let tokens_per_s = self.clock.rate();
        if self.state.step.is_multiple_of(self.steps.log_every) || self.finished() {
            self.write_line(lr)?;
        }
        self.mind_the_limit(&batch)?;
        Ok(Some(StepOutput { tokens_per_s, ..output }))
    }

    /// The batch with the samples that are fed beside its own, if there are any.
    fn mixed(&mut self, batch: &StepBatch) -> Option<StepBatch> {
        let beside = self.method.mix(batch.step, batch.rows.len());
        let rows = || [batch.rows.as_slice(), &beside].concat();
        (!beside.is_empty()).then(|| self.batches.step_batch(&rows(), batch.step))
    }

    /// Takes note of the loss of a step whose gradients are about to be used: one that is no number must not reach the weights
    /// where it can be known in time.
    pub(crate) fn count_loss(&mut self, output: &StepOutput) -> Result<()> {
        self.state.skipped_in_a_row = 0;
        self.unread.push(self.state.step + 1, output);
        match self.cheap_reads {
            true => self.read_losses(),
            false => Ok(()),
        }
    }

    /// Leaves a step out: weights and moments stay as they are. What the step shows is that nothing was learned.
    pub(crate) fn skip(&mut self, bad: Bad, batch: &StepBatch, output: StepOutput) -> Result<StepOutput> {
        let Some(guard) = &self.guard else { return Ok(output) };
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        let (step, count) = (self.state.step + 1, self.state.skipped_in_a_row);
        if self.ranks.is_first() {
            guard.keep(step, bad, batch)?;
        }
        let file = guard.file(step);
        if count >= guard.limit {
            return Err(Error::NotFinite {
                step,
                count,
                loss: bad.loss,
                grad_norm: bad.grad_norm,
                folder: guard.folder.clone(),
                last: self.saver.last(),
            });
        }
        (self.on_event)(&Event::Warning(format!(
            "step {step} is skipped: loss {}, gradient norm {}; its samples are in {}",
            bad.loss,
            bad.grad_norm,
            file.display()
        )));
        Ok(StepOutput {
            loss: Sum::Host(0.0),
            count: 0,
            figures: Vec::new(),
            grad_norm: self.grad_norm.clone(),
            ..output
        })
    }

    fn advance(&mut self, batch: &StepBatch) {
        let state = &mut self.state;
        state.step += 1;
        state.cursor = state.step % self.steps.per_epoch;
        state.epoch = state.step as f64 / self.steps.per_epoch as f64;
        state.tokens += batch.tokens as u64;
        self.clock.tokens += batch.tokens;
    }

    /// The check ends once a step has been taken with a gradient that had passed through moved weights.
    pub(crate) fn finish_check(&mut self, lr: f64) -> Result<()> {
        let over = self.check.as_mut().is_some_and(|c| c.step_taken(lr));
        if over && let Some(check) = self.check.take() {
            check.verdict(self.state.step)?;
        }
        Ok(())
    }

    /// Reads the losses that are still on the device; stops the run at one that is no number.
    fn read_losses(&mut self) -> Result<()> {
        self.unread.read(&mut self.state.pending, self.saver.last())
    }

    fn write_line(&mut self, lr: f64) -> Result<()> {
        self.read_losses()?;
        let rate = self.clock.rate();
        self.clock.lap();
        let state = &mut self.state;
        let pending = std::mem::take(&mut state.pending);
        let mut line = json!({
            "step": state.step,
            "epoch": state.epoch,
            "loss": (pending.count > 0).then(|| pending.loss.0 / pending.count as f64),
            "lr": lr,
            "grad_norm": self.grad_norm.as_ref().map(GradNorm::value),
            "skipped": state.skipped,
            "tokens": state.tokens,
            "tokens_per_s": rate,
            "memory_bytes": crate::memory::now(&self.saver.device),
        });
        if self.over_tasks.is_some() {
            let task = self.steps.task_ends.partition_point(|end| *end < state.step);
            line["task"] = self.tasks.0.get(task).map(|task| task.name.as_str()).into();
        }
        if let Some(size) = state.micro_batch {
            line["micro_batch"] = size.into();
        }
        if let Some(scale) = state.loss_scale {
            line["loss_scale"] = scale.scale.into();
            line["overflows"] = scale.skipped.into();
        }
        pending.means().for_each(|(name, mean)| line[name] = mean.into());
        self.method.report(&mut line);
        self.log.push(&line)?;
        state.log(line);
        Ok(())
    }

    /// Writes a checkpoint of the present state. Of several ranks the first does.
    pub fn save(&mut self, model: &TrainModel) -> Result<()> {
        self.read_losses()?;
        self.log.sync()?;
        self.clock.pause();
        self.state.seconds = self.clock.total();
        let gathered = self.gathered_optimizer(&model.model)?;
        let written = self.ranks.is_first().then(|| {
            let optim = match &gathered {
                None => States::Own(&self.optim),
                Some(states) => States::Gathered(states),
            };
            self.saver.checkpoint(&model.model, optim, &self.method, &self.state)
        });
        let written = written.transpose()?;
        (self.saver.newest, self.saver.soon) = (Some(self.state.step), false);
        let Some(path) = written else { return Ok(()) };
        let best = self
            .state
            .best
            .as_ref()
            .map(|b| b.step)
            .filter(|_| self.steps.load_best);
        Checkpoints::of(&self.saver.out).prune(self.steps.keep, best)?;
        (self.on_event)(&Event::Saved {
            step: self.state.step,
            path,
        });
        Ok(())
    }
}
