//! How many steps, and what happens at which.

use ft_optim::Schedule;
use serde::Serialize;

use crate::config::{EarlyStopping, RunConfig};
use crate::tasks::Course;

/// The run counted in optimizer steps. Everything that could be left out of a configuration is a number here.
#[derive(Clone, Debug, Serialize)]
pub struct Steps {
    /// Optimizer steps of the run.
    pub total: usize,
    /// Optimizer steps of one pass over the training samples.
    pub per_epoch: usize,
    /// Passes over the training samples.
    pub epochs: f64,
    /// Steps until the learning rate has reached `optim.lr`.
    pub warmup: usize,
    /// Steps between two logged lines.
    pub log_every: usize,
    /// Steps between two evaluations.
    pub eval_every: usize,
    /// Steps between two checkpoints.
    pub save_every: usize,
    /// Checkpoints that stay.
    pub keep: usize,
    /// Whether there is anything to evaluate on.
    pub evaluates: bool,
    /// Whether that is done before the first step too.
    pub at_start: bool,
    /// Whether the best weights, not the last, are the result.
    pub load_best: bool,
    /// When to give up.
    pub early_stopping: Option<EarlyStopping>,
    /// Largest norm of all gradients together.
    pub clip: Option<f64>,
    /// Base learning rate.
    pub base_lr: f64,
    /// Steps done when each task ends, where tasks come one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub task_ends: Vec<usize>,
    /// First steps of the parts of the run that each have a schedule of their own.
    #[serde(skip)]
    starts: Vec<usize>,
    #[serde(skip)]
    curve: Schedule,
}

impl Steps {
    /// Counts the run out: `per_epoch` is how many steps one pass takes.
    pub fn count(config: &RunConfig, per_epoch: usize, evaluates: bool) -> Self {
        let train = &config.train;
        let total = match (train.steps, train.epochs) {
            (Some(steps), _) => steps,
            // Rounded up: a share of a step is a step.
            (None, epochs) => ((epochs.unwrap_or(1.0) * per_epoch as f64).ceil() as usize).max(1),
        };
        let eval_every = train.eval_every.unwrap_or(per_epoch).clamp(1, total.max(1));
        let save_every = train.save_every.unwrap_or(eval_every).max(1);
        Self {
            total,
            per_epoch,
            epochs: total as f64 / per_epoch.max(1) as f64,
            warmup: config.schedule.warmup_steps(total as u64) as usize,
            log_every: train.log_every,
            eval_every,
            save_every,
            keep: train.keep,
            evaluates,
            at_start: config.eval.at_start,
            load_best: train.load_best,
            early_stopping: train.early_stopping,
            clip: config.optim.clip(),
            base_lr: config.optim.lr(),
            task_ends: Vec::new(),
            starts: vec![0],
            curve: config.schedule.clone(),
        }
    }

    /// The same for tasks that end at these steps, if there are any; every phase of the course has the whole schedule.
    pub fn over(self, task_ends: Vec<usize>, course: &Course) -> Self {
        let Some(total) = task_ends.last().copied() else {
            return self;
        };
        let starts: Vec<usize> = course.list().iter().map(|phase| phase.start).collect();
        let first = starts.get(1).copied().unwrap_or(total);
        Self {
            total,
            epochs: total as f64 / self.per_epoch.max(1) as f64,
            warmup: self.curve.warmup_steps(first as u64) as usize,
            eval_every: self.eval_every.min(total),
            // What a task has taught is told by where it began.
            at_start: true,
            starts,
            task_ends,
            ..self
        }
    }

    /// The steps of the part of the run that the step after `done` steps is in.
    fn part(&self, done: usize) -> (usize, usize) {
        let next = self.starts.partition_point(|start| *start <= done);
        (
            self.starts[next - 1],
            self.starts.get(next).copied().unwrap_or(self.total),
        )
    }

    /// Learning rate of the step after `done` steps.
    pub fn lr(&self, done: usize) -> f64 {
        let (start, end) = self.part(done);
        self.curve.lr(self.base_lr, (done - start) as u64, (end - start) as u64)
    }

    /// The shortest part of the run that has a schedule of its own.
    pub fn shortest(&self) -> usize {
        let parts = self.starts.iter().map(|start| self.part(*start));
        parts.map(|(start, end)| end - start).min().unwrap_or(self.total)
    }

    /// Whether the weights after `step` steps are evaluated.
    pub fn evaluates_at(&self, step: usize) -> bool {
        let ends = step == self.total || self.task_ends.contains(&step);
        let regular = step > 0 && (step.is_multiple_of(self.eval_every) || ends);
        self.evaluates && (regular || (step == 0 && self.at_start))
    }

    /// Whether a checkpoint is written after `step` steps.
    pub fn saves_at(&self, step: usize) -> bool {
        let ends = step == self.total || self.task_ends.contains(&step);
        step > 0 && (step.is_multiple_of(self.save_every) || ends)
    }
}
