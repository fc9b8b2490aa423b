//! Memory that runs out in a step: the step is taken with half the micro-batch, and so is every one after it.
//!
//! | where | how it shows | what is done |
//! |---|---|---|
//! | GPU | CubeCL keeps the failed allocation with the buffer, skips what needs it, and says so where a number is read back; some drivers panic | the gradients are dropped, a checkpoint is written, the same step is taken again |
//! | CPU | the kernel ends the process: nothing can be caught, so `train.memory` is what counts | the step stands; a checkpoint is written and the next step is cut smaller |
//!
//! A step feeds the same samples however it is cut, and weighs every unit of the loss alike. What changes are the seeds of the
//! dropout masks, which are named by forward pass: from there on a run takes the steps of one whose `batch_size` was the
//! smaller number. Until a step's loss and gradient have been read back neither weights nor moments have seen it, so that the
//! failure must surface there: with `train.max_bad_steps = 0` nothing is read, and a GPU that runs out ends the run.
//! A batch of an evaluation is cut the same way, for itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use ft_data::Batch;

use crate::batches::StepBatch;
use crate::engine::fit::Event;
use crate::engine::model::TrainModel;
use crate::engine::session::Session;
use crate::engine::step::Tried;
use crate::memory::{self, human};
use crate::objectives::HeldOut;
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

/// The memory of a run.
pub struct Memory {
    limit: Option<MemoryLimit>,
    /// What takes less, beside a smaller micro-batch.
    advice: Vec<String>,
}

impl Memory {
    /// That of the plan.
    pub fn new(plan: &Plan) -> Self {
        Self {
            limit: MemoryLimit::new(plan),
            advice: plan.memory_advice.clone(),
        }
    }

    /// A step begins.
    pub(crate) fn begin(&mut self) {
        self.limit.iter_mut().for_each(MemoryLimit::begin);
    }
}

/// `train.memory` where the process is what takes the memory.
struct MemoryLimit {
    bytes: u64,
    /// What was taken before the step.
    start: Option<u64>,
    told: bool,
}

impl MemoryLimit {
    /// That of the plan, on the CPU.
    fn new(plan: &Plan) -> Option<Self> {
        let typed = plan.config.train.memory.as_ref().filter(|_| plan.cpu);
        typed.and(plan.budget).map(|bytes| Self {
            bytes,
            start: None,
            told: false,
        })
    }

    fn begin(&mut self) {
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
    /// The batch as it fits into memory, and its gradients; none when someone asked to stop in between.
    pub(crate) fn fitting(
        &mut self,
        model: Option<&TrainModel>,
        batch: &StepBatch,
    ) -> Result<Option<(StepBatch, Tried)>> {
        let model = model.ok_or_else(|| Error::Training("no model to train".into()))?;
        self.memory.begin();
        let mut batch = self.with_loss_factor(self.cut(batch));
        loop {
            if let Some(tried) = attempt(|| self.try_step(model, &batch))? {
                return Ok(tried.map(|tried| (batch, tried)));
            }
            self.halve(&batch, "out of memory")?;
            // The checkpoint holds the new size: a run that is ended for good here goes on with it.
            if self.step() > 0 && attempt(|| self.save(model))?.is_none() {
                return Err(self.no_room_for(&batch));
            }
            self.clock.run();
            batch = self.with_loss_factor(self.cut(&batch));
        }
    }

    /// Takes note of what a step took on the CPU, once it is done.
    pub(crate) fn mind_the_limit(&mut self, batch: &StepBatch) -> Result<()> {
        let Some(limit) = &mut self.memory.limit else {
            return Ok(());
        };
        let (here, bytes) = (limit.exceeded().map(human), human(limit.bytes));
        let of_step = here.is_some() && limit.is_of_the_step();
        let divides = self.batches.largest_pass(batch) > 1 && !self.in_backward;
        // All ranks cut their steps alike.
        if divides && self.ranks.any(of_step)? {
            let why = match here {
                Some(peak) => format!("{peak} taken, train.memory is {bytes}"),
                None => format!("more than train.memory, {bytes}, taken by another rank"),
            };
            self.halve(batch, &why)?;
            self.saver.soon = true;
            return Ok(());
        }
        let Some(peak) = here else { return Ok(()) };
        let told = self.memory.limit.as_mut().map(|limit| &mut limit.told);
        if told.is_some_and(|told| !std::mem::replace(told, true)) {
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

    /// The batch as this run now cuts it.
    fn cut(&self, batch: &StepBatch) -> StepBatch {
        match self.state.micro_batch {
            Some(size) if size < self.batches.largest_pass(batch) => self.batches.recut(batch, size),
            _ => batch.clone(),
        }
    }

    /// From here on, half the samples of the batch's largest forward pass in each, or half the rows where rows are packed from all samples.
    fn halve(&mut self, batch: &StepBatch, why: &str) -> Result<()> {
        let (count, step) = (self.batches.largest_pass(batch), batch.step + 1);
        if count <= 1 {
            return Err(self.no_room_for(batch));
        }
        let size = count.div_ceil(2);
        self.state.micro_batch = Some(size);
        let what = self.batches.item();
        (self.on_event)(&Event::Warning(format!(
            "step {step}: {why} with {count} {what} in a forward pass; from here on {size}, and more passes in each step"
        )));
        Ok(())
    }

    /// The objective's judgement of a held-out batch, which is cut until it fits.
    pub(crate) fn evaluate(&self, model: &TrainModel, batch: &Batch) -> Result<HeldOut> {
        if let Some(held_out) = attempt(|| Ok(model.held_out(batch)))? {
            return Ok(held_out);
        }
        match batch.halves() {
            Some([first, rest]) => {
                let mut both = self.evaluate(model, &first)?;
                both.add(self.evaluate(model, &rest)?);
                Ok(both)
            }
            None => Err(self.no_room(self.step(), batch.rows, batch.width)),
        }
    }

    fn no_room_for(&self, batch: &StepBatch) -> Error {
        let shapes = batch.micro_batches.iter().map(|m| (m.batch.rows, m.batch.width));
        let (rows, width) = shapes.max_by_key(|(rows, width)| rows * width).unwrap_or_default();
        self.no_room(batch.step + 1, rows, width)
    }

    fn no_room(&self, step: usize, rows: usize, width: usize) -> Error {
        Error::OutOfMemory {
            step,
            rows,
            width,
            memory_advice: self.memory.advice.clone(),
            last: self.saver.last(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
