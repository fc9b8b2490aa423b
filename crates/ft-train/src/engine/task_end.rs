//! The end of a task where another follows: a row of R, the strategy's turn, `continual.json`.

use ft_data::Batch;
use ft_model::Model;
use ft_optim::{Optim, OptimConfig};
use ft_peft::PeftConfig;

use crate::checkpoint::{ContinualState, Exact, write_file};
use crate::continual::scores::{BeforeAndAfter, ContinualScores};
use crate::continual::{Next, Setting, Strategy, Succession};
use crate::engine::fit::Event;
use crate::engine::method_hook::MethodHook;
use crate::engine::model::TrainModel;
use crate::engine::session::Session;
use crate::{Error, Plan, Result};

/// What a run over tasks needs to know beside its steps.
pub struct OverTasks {
    /// The strategy's name.
    pub strategy: &'static str,
    /// What becomes of the adapter between two tasks.
    pub next: Next,
    /// The optimizer's options, the base rate and the method, for who starts afresh.
    fresh: (OptimConfig, f64, PeftConfig),
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
            next: section.next(),
            fresh: (plan.config.optim.clone(), plan.steps.base_lr, plan.peft.clone()),
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

    /// The adapters of such a plan, where each task has a fresh one.
    pub fn succession(plan: &Plan) -> Option<Succession> {
        let section = plan.config.continual.as_ref()?;
        Succession::new(section.next(), &plan.peft, plan.config.train.seed)
    }

    /// The optimizer of a fresh adapter.
    fn optim(&self, model: &mut Model) -> Result<Optim> {
        let (options, lr, peft) = &self.fresh;
        let mut optim = Optim::new(options)?;
        optim.set_rates(ft_peft::rates(model, peft, *lr));
        Ok(optim)
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
    pub(crate) fn end_task(&mut self, slot: &mut Option<TrainModel>) -> Result<()> {
        self.clock.pause();
        let Some(over) = &self.over_tasks else { return Ok(()) };
        let missing = || Error::Training("no model at the end of a task".into());
        let train = slot.as_ref().ok_or_else(missing)?;
        let mut state = self.state.continual.clone().unwrap_or_default();
        let task = state.matrix.len();
        let last = task + 1 == self.steps.task_ends.len();
        if !last {
            let stop = &self.stop;
            if !self.method.end_task(train, task, &|| !stop.asked())? {
                return Ok(());
            }
        }
        let row = self.state.last_eval.as_ref().map(|evaluation| evaluation.tasks.clone());
        state.matrix.push(row.unwrap_or_default());
        if last {
            state.general_after = perplexity(&self.method, train, &over.general)?;
        } else {
            let train = slot.take().ok_or_else(missing)?;
            let (mut model, fresh) = self.method.follow(train.model)?;
            if fresh {
                (self.optim, self.check) = (over.optim(&mut model)?, None);
            }
            *slot = Some(TrainModel { model, ..train });
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
    pub(crate) fn general_before(&mut self, train: &TrainModel) -> Result<()> {
        let Some(over) = &self.over_tasks else { return Ok(()) };
        let state = self.state.continual.get_or_insert_with(ContinualState::default);
        if state.general_before.is_none() {
            state.general_before = perplexity(&self.method, train, &over.general)?;
        }
        Ok(())
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
        let scores = ContinualScores::new(over.strategy, &self.tasks.names(), matrix, start, general);
        Some(ContinualScores {
            between_tasks: over.next.name().into(),
            ..scores
        })
    }

    /// Writes `continual.json`.
    fn write_scores(&self) -> Result<()> {
        let Some(scores) = self.scores().filter(|_| self.ranks.is_first()) else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&scores).unwrap_or_default();
        write_file(&self.saver.out.join(ContinualScores::FILE), (text + "\n").as_bytes())
    }
}

/// e to the mean negative log-likelihood; none without text.
fn perplexity(method: &MethodHook, train: &TrainModel, batches: &[Batch]) -> Result<Option<Exact>> {
    if batches.is_empty() {
        return Ok(None);
    }
    // A model that answers with NaN scores NaN.
    let found = ft_eval::evaluate(&method.model_of(&train.model, None)?, batches.iter().cloned());
    let mean = found.map_or(f64::NAN, |e| (e.nll_sum / e.tokens.max(1) as f64).exp());
    Ok(Some(Exact(mean)))
}
