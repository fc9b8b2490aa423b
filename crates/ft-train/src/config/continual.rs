//! Section `[continual]`: the tasks of `[[task]]` one after the other.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::RunConfig;
use crate::continual::StrategyConfig;

/// A strategy with its options, and how long each task is trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContinualSection {
    /// Optimizer steps of every task; the passes of `train.epochs` over each where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_task: Option<usize>,
    /// What is done against forgetting.
    #[serde(flatten)]
    pub strategy: StrategyConfig,
}

/// The key that every strategy has.
const STEPS: &str = "steps_per_task";

impl<'de> Deserialize<'de> for ContinualSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let steps = table.remove(STEPS).map(usize::deserialize).transpose();
        let steps = steps.map_err(|e| D::Error::custom(format!("{STEPS}: {}", e.message())))?;
        let default = || StrategyConfig::NAMES[0].into();
        table.entry("strategy").or_insert_with(default);
        Ok(Self {
            steps_per_task: steps,
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
        let choices = schema.get_mut("oneOf").and_then(|list| list.as_array_mut());
        for choice in choices.into_iter().flatten() {
            choice["properties"][STEPS] = steps.clone().into();
        }
        schema
    }
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
    let weighted = config.task.iter().any(|task| task.weight.is_some());
    if !kind.is_joint() && (weighted || config.mixture != super::MixtureSection::default()) {
        wrong.push(format!(
            "mixture, task.weight: continual.strategy = \"{name}\" mixes nothing; leave them out, or take \"joint\""
        ));
    }
    wrong
}
