//! Section `[continual]`: the tasks of `[[task]]` one after the other.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{MixOrder, RunConfig, TaskConfig};
use crate::continual::{BetweenTasks, Next, StrategyConfig};

/// A strategy with its options, and how long each task is trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContinualSection {
    /// Optimizer steps of every task; the passes of `train.epochs` over each where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_task: Option<usize>,
    /// What becomes of the adapter where a task ends and another follows: `"continue"`, or `"fold"` it into the base and start a fresh one.
    #[serde(skip_serializing_if = "super::is_default")]
    pub between_tasks: BetweenTasks,
    /// What is done against forgetting.
    #[serde(flatten)]
    pub strategy: StrategyConfig,
}

const STEPS: &str = "steps_per_task";
const BETWEEN: &str = "between_tasks";

/// The keys that every strategy has.
pub(super) const OWN: [&str; 2] = [STEPS, BETWEEN];

impl ContinualSection {
    /// What becomes of the adapter between two tasks.
    pub fn next(&self) -> Next {
        self.strategy.kind().next().unwrap_or(self.between_tasks.into())
    }
}

impl<'de> Deserialize<'de> for ContinualSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let steps = table.remove(STEPS).map(usize::deserialize).transpose();
        let steps = steps.map_err(|e| D::Error::custom(format!("{STEPS}: {}", e.message())))?;
        let between = table.remove(BETWEEN).map(BetweenTasks::deserialize).transpose();
        let between = between.map_err(|e| D::Error::custom(format!("{BETWEEN}: {}", e.message())))?;
        let default = || StrategyConfig::NAMES[0].into();
        table.entry("strategy").or_insert_with(default);
        Ok(Self {
            steps_per_task: steps,
            between_tasks: between.unwrap_or_default(),
            strategy: StrategyConfig::deserialize(table).map_err(D::Error::custom)?,
        })
    }
}

impl JsonSchema for ContinualSection {
    fn schema_name() -> Cow<'static, str> {
        "ContinualSection".into()
    }

    /// The choices of the strategy, each with the key that all have.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = StrategyConfig::json_schema(generator);
        let steps = json_schema!({
            "type": "integer",
            "minimum": 1,
            "description": "Optimizer steps of every task; the passes of `train.epochs` over each where it is not given."
        });
        let mut between = BetweenTasks::json_schema(generator);
        between.insert(
            "description".into(),
            "What becomes of the adapter where a task ends and another follows.".into(),
        );
        between.insert("default".into(), "continue".into());
        let choices = schema.get_mut("oneOf").and_then(|list| list.as_array_mut());
        for choice in choices.into_iter().flatten() {
            choice["properties"][STEPS] = steps.clone().into();
            if choice["properties"]["strategy"]["const"].as_str().is_some_and(goes_on) {
                choice["properties"][BETWEEN] = between.clone().into();
            }
        }
        schema
    }
}

/// Whether it is for `between_tasks` to say what becomes of an adapter.
fn goes_on(strategy: &str) -> bool {
    let table = toml::Table::from_iter([("strategy".to_owned(), strategy.into())]);
    let found = StrategyConfig::deserialize(table);
    found.is_ok_and(|config| config.kind().next().is_none() && !config.kind().is_joint())
}

/// Everything that is wrong with the section and can be known without a file.
pub(crate) fn check(config: &RunConfig) -> Vec<String> {
    let (train, tasks) = (&config.train, config.task.len());
    let Some(section) = &config.continual else {
        return match config.eval.general {
            Some(_) => vec!["eval.general: is measured in runs over tasks; give [continual], or leave it out".into()],
            None => Vec::new(),
        };
    };
    let (kind, name) = (section.strategy.kind(), section.strategy.name());
    let mut wrong = kind.check();
    if tasks < 2 {
        wrong.push(
            "continual: needs two tasks or more; give [[task]] tables in the order in which they are learned".into(),
        );
    }
    if section.steps_per_task == Some(0) {
        wrong.push("continual.steps_per_task: must be at least 1".into());
    }
    if let (Some(each), Some(all)) = (section.steps_per_task, train.steps)
        && each.checked_mul(tasks) != Some(all)
    {
        wrong.push(format!(
            "train.steps: {all} steps are not {tasks} tasks of continual.steps_per_task = {each}; leave train.steps out"
        ));
    }
    if section.steps_per_task.is_some() && train.epochs.is_some() {
        wrong.push("train.epochs and continual.steps_per_task exclude each other; keep one".into());
    }
    if let (None, Some(all)) = (section.steps_per_task, train.steps)
        && all < tasks
    {
        wrong.push(format!(
            "train.steps: {all} steps do not give each of {tasks} tasks one; set continual.steps_per_task"
        ));
    }
    if train.load_best || train.early_stopping.is_some() {
        wrong.push(
            "train.load_best, train.early_stopping: a run over tasks ends with the weights after its last task; leave them out"
                .into(),
        );
    }
    if train.optimizer_in_backward && kind.needs_whole_steps() {
        wrong.push(format!(
            "train.optimizer_in_backward: continual.strategy = \"{name}\" works on all gradients of a step at once; leave it out"
        ));
    }
    let examples = config.objective.kind().examples();
    if kind.needs_likelihood() && examples != ft_data::Examples::Samples {
        wrong.push(format!(
            "continual.strategy: \"{name}\" weighs parameters by the likelihood of answers, and objective.kind = \"{}\" learns from \
             rated or paired ones; take \"replay\", \"gem\" or \"agem\"",
            config.objective.name()
        ));
    }
    wrong.extend(between(config, section));
    let mixes = |task: &TaskConfig| task.weight.is_some() || task.cap.is_some() || task.repeat != 1.0;
    let mixed = config.task.iter().any(mixes) || config.mixture != super::MixtureSection::default();
    if !kind.is_joint() && mixed {
        wrong.push(format!(
            "mixture, task.weight, task.repeat, task.cap: continual.strategy = \"{name}\" mixes nothing; leave them out, or take \"joint\""
        ));
    }
    if kind.is_joint() && config.mixture.order == MixOrder::Cumulative {
        wrong.push("mixture.order: \"cumulative\" is a course of its own; leave out [continual], or the order".into());
    }
    wrong
}

/// What is wrong with a fresh adapter for each task.
fn between(config: &RunConfig, section: &ContinualSection) -> Vec<String> {
    let (kind, name) = (section.strategy.kind(), section.strategy.name());
    let (key, next) = match kind.next() {
        Some(next) => (format!("continual.strategy: \"{name}\""), next),
        None => ("continual.between_tasks: \"fold\"".to_owned(), section.next()),
    };
    let mut wrong = Vec::new();
    if section.between_tasks == BetweenTasks::Fold {
        if kind.copies(config.task.len()).kept > 0 {
            wrong.push(format!(
                "continual.between_tasks: strategy = \"{name}\" holds what trains to the values of the adapter before, which folding \
                 ends; take \"continue\""
            ));
        }
        if config.objective.kind().other() == Some(crate::objectives::Other::Base) {
            wrong.push(format!(
                "continual.between_tasks: objective.kind = \"{}\" measures against the base, which folding changes; name the folder of \
                 the base in the objective, or take \"continue\"",
                config.objective.name()
            ));
        }
    }
    if next == Next::Continue {
        return wrong;
    }
    if config.peft.from().is_some() {
        wrong.push(format!(
            "{key} starts a fresh adapter for each task, and peft.from names one; give peft.method"
        ));
    }
    if next == Next::Separate && !config.eval.metrics.is_empty() {
        wrong.push(format!(
            "eval.metrics: with {key} each task has a model of its own; give the tasks' own metrics (task.metrics)"
        ));
    }
    wrong
}
