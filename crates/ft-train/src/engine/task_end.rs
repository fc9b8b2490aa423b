//! The end of a task where another follows: a row of R, the strategy's turn, `continual.json`.

use std::sync::atomic::Ordering;

use burn::module::Module;
use ft_data::Batch;

use crate::checkpoint::{ContinualState, Exact, write_file};
use crate::continual::scores::{BeforeAndAfter, ContinualScores};
use crate::continual::{Setting, Strategy};
use crate::engine::fit::Event;
use crate::engine::model::TrainModel;
use crate::engine::session::Session;
use crate::{Plan, Result};

/// What a run over tasks needs to know beside its steps.
pub struct OverTasks {
    /// The strategy's name.
    pub strategy: &'static str,
    /// General text, in batches.
    pub general: Vec<Batch>,
}

impl OverTasks {
    /// Of a plan that has one task after the other.
    pub fn of(plan: &Plan) -> Option<Self> {
        let section = plan.config.continual.as_ref()?;
        let size = plan.config.eval.batch_size;
        let size = size.unwrap_or(plan.config.train.batch_size.count());
        Some(Self {
            strategy: section.strategy.name(),
            general: ft_eval::batches(&plan.general, size, plan.padding.multiple).collect(),
        })
    }

    /// The strategy of such a plan before the first step.
    pub fn strategy(plan: &Plan) -> Option<Box<dyn Strategy>> {
        let section = plan.config.continual.as_ref()?;
        Some(section.strategy.kind().build(Setting {
            batches: plan.batches.clone(),
            seed: plan.config.train.seed,
        }))
    }
}

impl Session {
    /// Whether a task has ended that is not concluded.
    pub(crate) fn task_end_due(&self) -> bool {
        let ended = self.state.continual.as_ref().map_or(0, |state| state.matrix.len());
        let end = self.steps.task_ends.get(ended);
        self.over_tasks.is_some() && end.is_some_and(|end| *end <= self.state.step)
    }

    /// Concludes a task whose end was evaluated. Nothing has changed where someone asked to stop; a resumed run does it again.
    pub(crate) fn end_task(&mut self, train: &TrainModel) -> Result<()> {
        self.clock.pause();
        let Some(over) = &self.over_tasks else { return Ok(()) };
        let mut state = self.state.continual.clone().unwrap_or_default();
        let task = state.matrix.len();
        let last = task + 1 == self.steps.task_ends.len();
        if !last {
            let (stop, interrupter) = (&self.stop, &self.interrupter);
            let go_on = || !stop.load(Ordering::Relaxed) && !interrupter.should_stop();
            if !self.method.end_task(train, task, &go_on)? {
                return Ok(());
            }
        }
        let row = self.state.last_eval.as_ref().map(|evaluation| evaluation.tasks.clone());
        state.matrix.push(row.unwrap_or_default());
        if last {
            state.general_after = perplexity(train, &over.general);
        }
        self.state.continual = Some(state);
        self.write_scores()?;
        let losses = self.scores().and_then(|scores| scores.matrix.last().cloned());
        (self.on_event)(&Event::TaskEnded {
            step: self.state.step,
            task,
            names: self.tasks.0.iter().map(|task| task.name.clone()).collect(),
            losses: losses.unwrap_or_default(),
        });
        Ok(())
    }

    /// Measures general text before the first step.
    pub(crate) fn general_before(&mut self, train: &TrainModel) {
        let Some(over) = &self.over_tasks else { return };
        let state = self.state.continual.get_or_insert_with(ContinualState::default);
        if state.general_before.is_none() {
            state.general_before = perplexity(train, &over.general);
        }
    }

    /// What the run over tasks has come to so far.
    pub(crate) fn scores(&self) -> Option<ContinualScores> {
        let (over, state) = (self.over_tasks.as_ref()?, self.state.continual.as_ref()?);
        let plain = |row: &Vec<Exact>| row.iter().map(|loss| loss.0).collect::<Vec<f64>>();
        let general = BeforeAndAfter {
            before: state.general_before.map(|x| x.0),
            after: state.general_after.map(|x| x.0),
        };
        let start = self
            .state
            .first_eval
            .as_ref()
            .map(|evaluation| plain(&evaluation.tasks));
        let matrix = state.matrix.iter().map(plain).collect();
        Some(ContinualScores::new(
            over.strategy,
            &self.tasks.names(),
            matrix,
            start,
            general,
        ))
    }

    /// Writes `continual.json`.
    fn write_scores(&self) -> Result<()> {
        let Some(scores) = self.scores() else { return Ok(()) };
        let text = serde_json::to_string_pretty(&scores).unwrap_or_default();
        write_file(&self.saver.out.join(ContinualScores::FILE), (text + "\n").as_bytes())
    }
}

/// e to the mean negative log-likelihood; none without text.
fn perplexity(train: &TrainModel, batches: &[Batch]) -> Option<Exact> {
    if batches.is_empty() {
        return None;
    }
    // A model that answers with NaN scores NaN.
    let found = ft_eval::evaluate(&train.model.valid(), batches.iter().cloned());
    Some(Exact(
        found.map_or(f64::NAN, |e| (e.nll_sum / e.tokens.max(1) as f64).exp()),
    ))
}
