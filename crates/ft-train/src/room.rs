//! Memory that runs out in a step: the step is taken with half the micro-batch, and so is every one after it.
//!
//! | where | how it shows | what is done |
//! |---|---|---|
//! | GPU | CubeCL keeps the failed allocation with the buffer, skips what needs it, and says so where a number is read back; some drivers panic | the gradients are dropped, a checkpoint is written, the same step is taken again |
//! | CPU | the kernel ends the process: nothing can be caught, so `train.memory` is what counts | the step stands; a checkpoint is written and the next step is cut smaller |
//!
//! A step feeds the same samples however it is cut, and weighs every learned token alike. What changes are the seeds of the
//! dropout masks, which are named by forward pass: from there on a run takes the steps of one whose `batch_size` was the
//! smaller number. Until a step's loss and gradient have been read back neither weights nor moments have seen it, so that the
//! failure must surface there: with `train.max_bad_steps = 0` nothing is read, and a GPU that runs out ends the run.
//! A batch of an evaluation is cut the same way, for itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::optim::GradientsParams;
use burn::train::TrainOutput;
use ft_data::Batch;
use ft_optim::scale_and_clip;

use crate::feed::Window;
use crate::fit::Event;
use crate::guard::Bad;
use crate::memory::{self, human};
use crate::metrics::StepOutput;
use crate::model::TrainModel;
use crate::session::Session;
use crate::{Error, Plan, Result};

/// What CubeCL 0.11 (`IoError`, `LaunchError`) and wgpu call it, in lower case.
const SIGNS: [&str; 4] = [
    "out of device memory",
    "out of memory",
    "out-of-memory",
    "can't allocate",
];

/// Runs what changes nothing that outlives it; none when there was not enough memory for it.
pub(crate) fn attempt<T>(part: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(Err(Error::Device(text))) if tells_of_memory(&text) => Ok(None),
        Ok(done) => done.map(Some),
        Err(panic) if text_of(panic.as_ref()).is_some_and(tells_of_memory) => Ok(None),
        Err(panic) => resume_unwind(panic),
    }
}

fn tells_of_memory(text: &str) -> bool {
    let text = text.to_lowercase();
    SIGNS.iter().any(|sign| text.contains(sign))
}

fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied())
}

/// Gradients that the optimizer may take.
pub(crate) struct Tried {
    pub output: StepOutput,
    /// Clipped, of the window's mean loss.
    pub grads: GradientsParams,
    /// They left f16.
    pub overflows: bool,
    /// Loss or gradient is no number.
    pub bad: Option<Bad>,
}

/// `train.memory` where the process is what takes the memory.
pub struct Limit {
    bytes: u64,
    /// What was taken before the step.
    start: Option<u64>,
    told: bool,
}

impl Limit {
    /// That of the plan, on the CPU.
    pub fn new(plan: &Plan) -> Option<Self> {
        let cpu = plan.provenance.device == "cpu";
        let typed = plan.config.train.memory.as_ref().filter(|_| cpu);
        typed.and(plan.budget).map(|bytes| Self {
            bytes,
            start: None,
            told: false,
        })
    }

    pub(crate) fn begin(&mut self) {
        self.start = memory::lap().then(memory::resident).flatten();
    }

    /// What the step took, if it left the limit.
    fn exceeded(&self) -> Option<u64> {
        self.start?;
        memory::since_lap().filter(|peak| *peak > self.bytes)
    }

    /// Whether a smaller step can help: this one began within the limit.
    fn is_of_the_step(&self) -> bool {
        self.start.is_some_and(|start| start <= self.bytes)
    }
}

impl Session {
    /// The window as it fits into memory, and its gradients; none when someone asked to stop in between.
    pub(crate) fn fitting(&mut self, model: Option<&TrainModel>, window: &Window) -> Result<Option<(Window, Tried)>> {
        let model = model.ok_or_else(|| Error::Training("no model to train".into()))?;
        self.limit.iter_mut().for_each(Limit::begin);
        let mut window = self.with_loss_factor(self.cut(window));
        loop {
            if let Some(tried) = attempt(|| self.try_step(model, &window))? {
                return Ok(tried.map(|tried| (window, tried)));
            }
            self.halve(&window, "out of memory")?;
            // The checkpoint holds the new size: a run that is ended for good here goes on with it.
            if self.step() > 0 && attempt(|| self.save(model))?.is_none() {
                return Err(self.no_room_for(&window));
            }
            self.clock.run();
            window = self.with_loss_factor(self.cut(&window));
        }
    }

    /// Takes note of what a step took on the CPU, once it is done.
    pub(crate) fn mind_the_limit(&mut self, window: &Window) -> Result<()> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        let Some(peak) = limit.exceeded() else { return Ok(()) };
        let (peak, bytes) = (human(peak), human(limit.bytes));
        let divides = largest(window) > 1 && !self.in_backward;
        if divides && limit.is_of_the_step() {
            self.halve(window, &format!("{peak} taken, train.memory is {bytes}"))?;
            self.save_soon = true;
        } else if !std::mem::replace(&mut limit.told, true) {
            (self.on_event)(&Event::Warning(format!(
                "step {}: {peak} taken, train.memory is {bytes}, and {}",
                self.state.step,
                match self.in_backward {
                    true => "train.optimizer_in_backward takes a step in one forward pass",
                    false => "a smaller micro-batch does not help",
                }
            )));
        }
        Ok(())
    }

    /// The window as this run now cuts it.
    fn cut(&self, window: &Window) -> Window {
        match self.state.micro_batch {
            Some(size) if size < largest(window) => self.feed.recut(window, size),
            _ => window.clone(),
        }
    }

    fn try_step(&mut self, model: &TrainModel, window: &Window) -> Result<Option<Tried>> {
        let (stop, interrupter) = (&self.stop, &self.interrupter);
        let go_on = || !stop.load(std::sync::atomic::Ordering::Relaxed) && !interrupter.should_stop();
        let Some(TrainOutput { grads, item }) = model.gradients(window, &go_on) else {
            return Ok(None);
        };
        let factor = 1.0 / window.learned.max(1) as f64;
        let grads = self.method.penalize(model, grads, window.learned);
        let (grads, norm) = scale_and_clip(model, grads, factor, self.steps.clip);
        let output = StepOutput {
            grad_norm: Some(norm),
            ..item
        };
        // The judge first: an overflow moves the scale, which a step taken again must find as it was.
        let bad = self
            .guard
            .as_ref()
            .map(|guard| guard.judge(&output))
            .transpose()?
            .flatten();
        let overflows = self.overflows(&output)?;
        Ok(Some(Tried {
            output,
            grads,
            overflows,
            bad,
        }))
    }

    /// From here on, half the samples of the window's largest forward pass in each.
    fn halve(&mut self, window: &Window, why: &str) -> Result<()> {
        let (rows, step) = (largest(window), window.step + 1);
        if rows <= 1 {
            return Err(self.no_room_for(window));
        }
        let size = rows.div_ceil(2);
        self.state.micro_batch = Some(size);
        (self.on_event)(&Event::Warning(format!(
            "step {step}: {why} with {rows} samples in a forward pass; from here on {size}, and more passes in each step"
        )));
        Ok(())
    }

    /// Sum of the negative log-likelihood in nats over the learned tokens of a batch, which is cut until it fits.
    pub(crate) fn evaluate(&self, model: &TrainModel, batch: &Batch) -> Result<f64> {
        if let Some(nll) = attempt(|| Ok(model.held_out(batch.clone())))? {
            return Ok(nll);
        }
        match batch.halves() {
            Some([first, rest]) => Ok(self.evaluate(model, &first)? + self.evaluate(model, &rest)?),
            None => Err(self.no_room(self.step(), batch.rows, batch.width)),
        }
    }

    fn no_room_for(&self, window: &Window) -> Error {
        let width = window.micro.iter().map(|m| m.batch.width).max().unwrap_or(0);
        self.no_room(window.step + 1, largest(window), width)
    }

    fn no_room(&self, step: usize, rows: usize, width: usize) -> Error {
        Error::OutOfMemory {
            step,
            rows,
            width,
            relief: self.relief.clone(),
            last: self.saved.map_or("none".to_owned(), |s| format!("step-{s}")),
        }
    }
}

/// Rows of the largest micro-batch.
fn largest(window: &Window) -> usize {
    window.micro.iter().map(|micro| micro.batch.rows).max().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
