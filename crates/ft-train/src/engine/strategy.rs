//! The loop inside burn-train: a [`SupervisedLearningStrategy`] whose virtual epoch is `eval_every` optimizer steps, so that
//! burn-train's metrics, event store, renderer, early stopping and interrupter work by steps.
//!
//! burn-train's `Learner` keeps its optimizer to itself and steps on a clone of the model, so that old and new weights exist
//! side by side. Here the [`Session`] owns the optimizer, and the model is moved through it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use burn::module::Module;
use burn::train::{
    EventProcessorTraining, Learner, LearnerEvent, SupervisedLearningStrategy, SupervisedTrainingEventProcessor,
    TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use burn::{data::dataloader::Progress, optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate};

use crate::batches::StepBatch;
use crate::engine::model::TrainModel;
use crate::engine::over_ranks;
use crate::engine::session::Session;
use crate::objectives::HeldOut;
use crate::watch::Ending;
use crate::watch::metrics::StepOutput;
use crate::watch::speakers::Speakers;
use crate::{Error, Result};

type Processor = SupervisedTrainingEventProcessor<TrainModel>;

/// Our loop as a learning strategy. The session goes in before the launch and comes out, with how it ended, after it.
pub struct StepStrategy {
    session: Mutex<Option<Session>>,
    ending: Mutex<Option<Result<Ending>>>,
}

impl StepStrategy {
    /// A strategy that runs this session.
    pub fn new(session: Session) -> Self {
        Self {
            session: Mutex::new(Some(session)),
            ending: Mutex::new(None),
        }
    }

    /// The session after the launch, and why it ended.
    pub fn finish(&self) -> Result<(Session, Ending)> {
        let lost = || Error::Training("the training loop never ran".into());
        let ending = take(&self.ending).ok_or_else(lost)??;
        Ok((take(&self.session).ok_or_else(lost)?, ending))
    }
}

/// A lock that a panic elsewhere has poisoned still holds a whole value: it is only ever replaced.
fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(|e| e.into_inner()).take()
}

impl SupervisedLearningStrategy<TrainModel> for StepStrategy {
    fn fit(
        &self,
        components: TrainingComponents<TrainModel>,
        learner: Learner<TrainModel>,
        train: TrainLoader<TrainModel>,
        valid: ValidLoader<TrainModel>,
        _: usize,
    ) -> (TrainModel, Processor) {
        let model = learner.model();
        drop(learner);
        let session = take(&self.session).expect("a strategy is launched once");
        let mut run = Run {
            session,
            components,
            model: Some(model),
            valid,
        };
        let ending = run.go(train);
        let Run {
            session,
            components,
            model,
            ..
        } = run;
        *self.session.lock().unwrap_or_else(|e| e.into_inner()) = Some(session);
        *self.ending.lock().unwrap_or_else(|e| e.into_inner()) = Some(ending);
        (
            model.expect("every step puts the model back"),
            components.event_processor,
        )
    }
}

struct Run {
    session: Session,
    components: TrainingComponents<TrainModel>,
    /// Empty only inside a step.
    model: Option<TrainModel>,
    valid: ValidLoader<TrainModel>,
}

impl Run {
    fn go(&mut self, train: TrainLoader<TrainModel>) -> Result<Ending> {
        let mut batches = train.iter();
        let mut open = false;
        loop {
            self.session.meet()?;
            let boundary = self.session.step().is_multiple_of(self.session.steps.eval_every);
            let part_ends = open && (boundary || self.session.evaluation_due());
            if part_ends {
                self.tell_train(LearnerEvent::EndSplit(self.finished_epoch()));
            }
            if self.session.evaluation_due() && !self.session.stop.asked() {
                self.evaluate()?;
            }
            if open && boundary {
                self.tell_train(LearnerEvent::EndEpoch(self.finished_epoch()));
            }
            open &= !part_ends;
            if self.session.task_end_due() && !self.session.evaluation_due() {
                self.end_task()?;
            }
            if self.session.save_due() {
                self.save()?;
            }
            if let Some(ending) = self.session.ending() {
                return self.end(ending);
            }
            if !open {
                let total_items = self.session.steps.eval_every;
                self.tell_train(LearnerEvent::StartSplit {
                    epoch_number: self.epoch(),
                    total_items,
                });
                open = true;
            }
            let Some(batch) = batches.next() else {
                return Err(Error::Training(
                    "the training samples ran out before the last step".into(),
                ));
            };
            if !self.step(&batch.map_err(|e| Error::Training(e.to_string()))?)? {
                return self.end(Ending::Interrupted);
            }
        }
    }

    /// Whatever ends a run, a checkpoint holds where it stands.
    fn end(&mut self, ending: Ending) -> Result<Ending> {
        self.burn_errors()?;
        if self.unsaved() {
            self.save()?;
        }
        Ok(ending)
    }

    fn end_task(&mut self) -> Result<()> {
        self.session.end_task(&mut self.model)
    }

    fn save(&mut self) -> Result<()> {
        let Self { session, model, .. } = self;
        let model = model
            .as_ref()
            .ok_or_else(|| Error::Training("no model to save".into()))?;
        session.save(model)
    }

    fn model(&self) -> Result<&TrainModel> {
        self.model
            .as_ref()
            .ok_or_else(|| Error::Training("no model to evaluate".into()))
    }

    fn unsaved(&self) -> bool {
        self.session.step() > 0 && self.session.saver.newest != Some(self.session.step())
    }

    /// Number of the virtual epoch that the next step belongs to, from 1.
    fn epoch(&self) -> usize {
        self.session.step() / self.session.steps.eval_every + 1
    }

    /// One optimizer step; false where someone asked to stop in the middle of it.
    fn step(&mut self, batch: &StepBatch) -> Result<bool> {
        let every = self.session.steps.eval_every;
        let lr = ModuleLearningRate::from(self.session.steps.lr(self.session.step()));
        let Some(output) = self.session.train(&mut self.model, batch)? else {
            return Ok(false);
        };
        let done = (self.session.step() - 1) % every + 1;
        let progress = Progress::new(done, every, Some("steps".into()));
        let item = TrainingItem::new(output, progress, Some(self.session.step()), Some(lr));
        self.tell_train(LearnerEvent::ProcessedItem(item));
        self.burn_errors()?;
        Ok(true)
    }

    /// Number of the virtual epoch that the last step belonged to; 0 before the first.
    fn finished_epoch(&self) -> usize {
        self.session.step().div_ceil(self.session.steps.eval_every)
    }

    /// Evaluates the present weights. Someone who asks to stop does not wait for the rest of it; it is made up for after a
    /// resume.
    fn evaluate(&mut self) -> Result<()> {
        self.session.clock.pause();
        let started = Instant::now();
        let epoch = self.finished_epoch();
        self.tell_valid(LearnerEvent::StartSplit {
            epoch_number: epoch,
            total_items: self.valid.num_items(),
        });
        let groups = self.session.tasks.0.len().max(1);
        let models = self.models(groups)?;
        let valid = self.valid.clone();
        let ranks = self.session.ranks.clone();
        let mut held_out = vec![HeldOut::default(); groups];
        let mut batches = valid.iter();
        for number in 0.. {
            let Some(batch) = batches.next() else { break };
            if number % ranks.size() == 0 {
                self.session.meet()?;
            }
            if self.session.stop.asked() {
                return Ok(());
            }
            if number % ranks.size() != ranks.rank() {
                continue;
            }
            let batch = batch.map_err(|e| Error::Training(e.to_string()))?;
            let group = self.session.group_of(&batch);
            let part = self.session.evaluate(&models[group], &batch)?;
            if ranks.is_alone() {
                self.tell_judged(&part, batches.progress());
            }
            held_out[group].add(part);
        }
        if !ranks.is_alone() {
            held_out = over_ranks::added(&ranks, &held_out)?;
            self.tell_judged(&HeldOut::together(held_out.clone()), batches.progress());
        }
        self.tell_valid(LearnerEvent::EndSplit(epoch));
        let flushed = self.components.event_processor.flush();
        self.components.interrupter.fail_on_error(flushed);
        self.burn_errors()?;
        let seconds = started.elapsed().as_secs_f64();
        let Session {
            answers, stop, state, ..
        } = &mut self.session;
        let speakers = Speakers::new(&ranks, stop);
        if let Some(answers) = answers {
            answers.ask(state.step, &|task| models[task].model.clone(), speakers)?;
        }
        let metrics = self.metrics(&models)?;
        if self.session.stop.asked() {
            return Ok(());
        }
        if self.session.step() == 0 {
            let Self { session, model, .. } = self;
            model.as_ref().map_or(Ok(()), |train| session.general_before(train))?;
        }
        self.session.evaluated(held_out, metrics, seconds)?;
        self.judge(epoch);
        Ok(())
    }

    fn tell_judged(&mut self, part: &HeldOut, progress: Progress) {
        let output = StepOutput::evaluated(part.loss, part.count);
        let item = TrainingItem::new(output, progress, Some(self.session.step()), None);
        self.tell_valid(LearnerEvent::ProcessedItem(item));
    }

    /// The metrics of the tasks' answers; none of a model that cannot answer, whose loss the run judges.
    fn metrics(&self, models: &[TrainModel]) -> Result<BTreeMap<String, f64>> {
        let Session {
            task_metrics,
            stop,
            ranks,
            ..
        } = &self.session;
        let Some(metrics) = task_metrics else {
            return Ok(BTreeMap::new());
        };
        match metrics.measure(|task| &models[task].model, Speakers::new(ranks, stop)) {
            Err(error @ Error::Rank { .. }) => Err(error),
            measured => Ok(measured.unwrap_or_default()),
        }
    }

    /// What judges the held-out samples of each task, on a plain device.
    fn models(&self, groups: usize) -> Result<Vec<TrainModel>> {
        let train = self.model()?;
        let of_task = |task| {
            let model = self.session.method.model_of(&train.model, Some(task))?;
            Ok(TrainModel { model, ..train.valid() })
        };
        (0..groups).map(of_task).collect()
    }

    /// Early stopping's turn. The evaluation before the first step is for people to compare with, not for patience.
    fn judge(&mut self, epoch: usize) {
        if self.session.step() > 0
            && let Some(early) = &mut self.components.early_stopping
        {
            early.should_stop(epoch, &self.components.event_store);
            self.session.state.patience = self.session.patience.get();
        }
    }

    fn tell_train(&mut self, event: LearnerEvent<StepOutput>) {
        let result = self.components.event_processor.process_train(event);
        self.components.interrupter.fail_on_error(result);
    }

    fn tell_valid(&mut self, event: LearnerEvent<StepOutput>) {
        let result = self.components.event_processor.process_valid(event);
        self.components.interrupter.fail_on_error(result);
    }

    /// What burn-train's own thread ran into.
    fn burn_errors(&self) -> Result<()> {
        match self.components.interrupter.error() {
            Some(error) => Err(Error::Training(error.to_string())),
            None => Ok(()),
        }
    }
}
