//! Tables `[[task]]` and the section `[mixture]`: several tasks in one run.

use std::collections::{BTreeMap, HashSet};

use ft_data::{DataConfig, Files, FormatName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunConfig;
use crate::objectives::ObjectiveConfig;

/// One table `[[task]]`. Everything else about the data is that of `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Letters, digits, `-` and `_`: part of keys such as `eval_loss/NAME`.
    pub name: String,
    /// Training examples, as `data.train`.
    pub train: Files,
    /// Held-out examples, as `data.valid`. Without it, `data.valid_split_name` or `data.valid_split` takes them from the training
    /// examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Files>,
    /// How a record becomes text; `data.format` where it is not given, or recognised by the columns of the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FormatName>,
    /// As `data.map`, which it takes the place of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, String>,
    /// Share of the samples of a mixture, relative to the weights of the other tasks; 1 where another task has one. See
    /// `mixture.by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How often its samples come in a pass over the mixture: the task counts as this many times its samples. 0.5 takes every other
    /// one in each pass, in turn.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repeat: f64,
    /// Most of its samples in a pass over the mixture: the task counts as having no more; the next pass goes on with the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<usize>,
    /// The loss of every target token of the task is multiplied by this.
    #[serde(default = "one")]
    pub loss_weight: f64,
    /// Metrics of answers to this task's held-out prompts, at most `eval.max_answers` of them, at every evaluation: `exact_match`, `bleu`,
    /// `rougeL`. Over all tasks that have a metric, it is reported for all their answers (`bleu_micro`) and as the mean over them (`bleu_macro`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<String>,
}

fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// Section `[mixture]`: how often each task has its turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MixtureSection {
    /// What a task's share of the samples is proportional to: `"weight"` where a task has one, else `"size"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<MixBy>,
    /// With `by = "temperature"`: shares are proportional to size to the power of 1/temperature. 1 is `"size"`, large values make all
    /// tasks alike; 2 where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// With `by = "size"` or `"temperature"`: a task counts as having no more samples than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<usize>,
    /// Where an epoch ends.
    #[serde(default)]
    pub epoch: EpochEnd,
    /// Which tasks come when.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub order: MixOrder,
    /// Whether all tasks train one adapter, or each its own over one base.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub adapter: AdapterSharing,
}

/// Which tasks come when (curriculum).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MixOrder {
    /// All of them, all the time.
    #[default]
    Mixed,
    /// In every pass one after the other, in the order of the tables.
    Sequential,
    /// The run has as many stages as there are tasks: the first has the first task alone, and each further one the next task too ("baby
    /// steps", Spitkovsky et al. 2010). Stages are equal parts of `train.steps`, or have `train.epochs` passes each.
    Cumulative,
}

/// Whose an adapter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterSharing {
    /// All tasks train one.
    #[default]
    Shared,
    /// Each task trains its own, from the same starting values, on its own samples of every step: with their mean loss, their clipping and
    /// moments of its own, as if it trained alone. `final/TASK/` holds the adapter of each task.
    PerTask,
}

/// What shares are proportional to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MixBy {
    /// Samples of the task.
    Size,
    /// `task.weight`.
    Weight,
    /// A power of the size (T5: Raffel et al. 2019, arXiv:1910.10683, section 3.5.2).
    Temperature,
}

/// Where an epoch of a mixture ends. A task that runs out before starts over in a new order; what an epoch leaves of a task comes
/// first in the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EpochEnd {
    /// After as many samples as all tasks together have.
    #[default]
    Samples,
    /// When the first task has run out.
    FirstExhausted,
    /// When the last task has run out.
    AllExhausted,
}

impl TaskConfig {
    /// The section `[data]` as it is for this task.
    pub fn data(&self, data: &DataConfig) -> DataConfig {
        DataConfig {
            train: self.train.clone(),
            valid: self.valid.clone(),
            valid_split: if self.valid.is_some() { 0.0 } else { data.valid_split },
            format: self.format.or(data.format),
            map: if self.map.is_empty() {
                data.map.clone()
            } else {
                self.map.clone()
            },
            ..data.clone()
        }
    }

    /// As how many samples the task counts that has `samples` of them: what `repeat` and `cap` make of them, at least one of any.
    pub fn size(&self, samples: usize) -> usize {
        let size = (samples as f64 * self.repeat).round() as usize;
        size.min(self.cap.unwrap_or(usize::MAX)).max(samples.min(1))
    }

    /// What messages call it.
    pub fn key(&self, field: &str) -> String {
        format!("task \"{}\": {field}", self.name)
    }
}

/// Everything that is wrong with the tasks and can be known without a file.
pub(crate) fn check(config: &RunConfig) -> Vec<String> {
    let (tasks, mixture, data) = (&config.task, &config.mixture, &config.data);
    if tasks.is_empty() {
        return match *mixture == MixtureSection::default() {
            true => Vec::new(),
            false => vec!["mixture: there is nothing to mix; give [[task]] tables, or leave it out".into()],
        };
    }
    let mut wrong = Vec::new();
    for (key, given) in [
        ("data.train", !data.train.is_empty()),
        ("data.valid", data.valid.is_some()),
    ] {
        if given {
            wrong.push(format!(
                "{key}: [[task]] tables take its place; leave it out, or make it a task"
            ));
        }
    }
    let mut seen = HashSet::new();
    for task in tasks {
        wrong.extend(names(task, &mut seen));
        if task.valid.is_none() && data.valid_split == 0.0 && data.valid_split_name.is_none() {
            let why = "no held-out rows; give valid, or data.valid_split to hold out a share of train";
            wrong.push(task.key(why));
        }
        wrong.extend(numbers(task));
        wrong.extend(task.metrics.iter().filter_map(|name| metric(task, name)));
        if let Err(e) = task.data(data).check() {
            wrong.push(task.key(&e.to_string().replacen("data.", "", 1)));
        }
    }
    wrong.extend(shares(tasks, mixture));
    if mixture.adapter == AdapterSharing::PerTask {
        wrong.extend(per_task(config));
    }
    let weighed = tasks.iter().any(|task| task.loss_weight != 1.0);
    if weighed && !matches!(*config.objective, ObjectiveConfig::Sft(_)) {
        let kind = config.objective.name();
        wrong.push(format!(
            "task.loss_weight: weighs target tokens, and objective.kind = \"{kind}\" is not a sum over them alone; leave it out, or \
             use objective.kind = \"sft\""
        ));
    }
    wrong
}

/// What is wrong with the numbers of a task.
fn numbers(task: &TaskConfig) -> Vec<String> {
    let mut wrong = Vec::new();
    let weights = [("weight", task.weight), ("loss_weight", Some(task.loss_weight))];
    for (field, weight) in weights {
        if weight.is_some_and(|w| !w.is_finite() || w < 0.0) {
            wrong.push(task.key(&format!("{field} must be a number of at least 0")));
        }
    }
    if !(task.repeat > 0.0 && task.repeat <= MOST_REPEATS) {
        wrong.push(task.key(&format!("repeat must be above 0 and at most {MOST_REPEATS}")));
    }
    if task.cap == Some(0) {
        wrong.push(task.key("cap must be at least 1; leave the task out to train without it"));
    }
    wrong
}

/// A task that comes more often in one pass was meant to have a weight.
const MOST_REPEATS: f64 = 1e4;

/// What is wrong with a metric of a task, if anything is.
fn metric(task: &TaskConfig, name: &str) -> Option<String> {
    let why = match ft_eval::find(name) {
        Err(unknown) => unknown.to_string(),
        Ok(metric) if metric.needs_choices() => {
            format!("\"{name}\" is of multiple-choice questions, which runs do not ask; use ft eval")
        }
        Ok(_) => return None,
    };
    Some(task.key(&format!("metrics: {why}")))
}

/// What an adapter for each task cannot be had with.
fn per_task(config: &RunConfig) -> Vec<String> {
    const KEY: &str = "mixture.adapter: \"per_task\"";
    let wrong = [
        (
            config.continual.is_some(),
            "tasks one after the other have adapters of their own with continual.strategy = \"adapters\"; leave one of them out",
        ),
        (
            config.train.optimizer_in_backward,
            "takes the steps of all adapters once all gradients are there; set train.optimizer_in_backward = false",
        ),
        (
            config.train.dump_batches.is_some(),
            "a step is one of several models, and train.dump_batches is read as the steps of one; leave one of them out",
        ),
        (
            !config.eval.metrics.is_empty(),
            "each task has a model of its own; give the tasks' own metrics (task.metrics) in place of eval.metrics",
        ),
    ];
    let wrong = wrong.iter().filter(|(wrong, _)| *wrong);
    wrong.map(|(_, why)| format!("{KEY}: {why}")).collect()
}

fn names<'t>(task: &'t TaskConfig, seen: &mut HashSet<&'t str>) -> Vec<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut wrong = Vec::new();
    if task.name.is_empty() || !task.name.chars().all(plain) {
        wrong.push(task.key("name must be letters, digits, - and _"));
    }
    if RESERVED.contains(&task.name.as_str()) {
        wrong.push(task.key("name means all tasks together (train.best_by); take another"));
    }
    if !seen.insert(&task.name) {
        wrong.push(task.key("two tasks have this name; every task needs its own"));
    }
    wrong
}

/// Words of `train.best_by` that are no task.
pub(crate) const RESERVED: [&str; 2] = ["micro", "macro"];

fn shares(tasks: &[TaskConfig], mixture: &MixtureSection) -> Vec<String> {
    let mut wrong = Vec::new();
    let by = mixture.by(tasks);
    let weighted = tasks.iter().any(|task| task.weight.is_some());
    if by != MixBy::Weight && weighted {
        wrong.push("mixture.by: not \"weight\", so task.weight would count for nothing; leave one of them out".into());
    }
    let sum: f64 = tasks.iter().map(|task| task.weight.unwrap_or(1.0)).sum();
    if by == MixBy::Weight && sum == 0.0 {
        wrong.push(
            "task.weight: the weights sum to 0, so nothing would be trained on; give a task a positive one".into(),
        );
    }
    if mixture.temperature.is_some_and(|t| !t.is_finite() || t <= 0.0) {
        wrong.push("mixture.temperature: must be a positive number".into());
    }
    if mixture.temperature.is_some() && by != MixBy::Temperature {
        wrong.push("mixture.temperature: belongs to mixture.by = \"temperature\"".into());
    }
    if mixture.cap == Some(0) {
        wrong.push("mixture.cap: must be at least 1".into());
    }
    if mixture.cap.is_some() && by == MixBy::Weight {
        wrong.push("mixture.cap: belongs to mixture.by = \"size\" or \"temperature\"".into());
    }
    if mixture.order == MixOrder::Cumulative && tasks[0].weight == Some(0.0) {
        wrong.push(tasks[0].key("weight is 0, and mixture.order = \"cumulative\" begins with this task alone"));
    }
    if tasks.iter().all(|task| task.loss_weight == 0.0) {
        wrong.push("task.loss_weight: 0 for every task leaves no loss; give a task a positive one".into());
    }
    wrong
}

impl MixtureSection {
    /// What shares are proportional to.
    pub fn by(&self, tasks: &[TaskConfig]) -> MixBy {
        let weighted = tasks.iter().any(|task| task.weight.is_some());
        self.by.unwrap_or(if weighted { MixBy::Weight } else { MixBy::Size })
    }

    /// The share of each task, `sizes` being what they count as ([`TaskConfig::size`]): numbers from 0 to 1 that sum to 1.
    pub fn shares(&self, tasks: &[TaskConfig], sizes: &[usize]) -> Vec<f64> {
        let size = |n: &usize| (*n).min(self.cap.unwrap_or(usize::MAX)) as f64;
        let raw: Vec<f64> = match self.by(tasks) {
            MixBy::Weight => tasks.iter().map(|task| task.weight.unwrap_or(1.0)).collect(),
            MixBy::Size => sizes.iter().map(size).collect(),
            MixBy::Temperature => {
                let power = 1.0 / self.temperature.unwrap_or(2.0);
                sizes.iter().map(|n| size(n).powf(power)).collect()
            }
        };
        let sum: f64 = raw.iter().sum();
        raw.into_iter().map(|share| share / sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(weights: &[Option<f64>]) -> Vec<TaskConfig> {
        let task = |(i, weight): (usize, &Option<f64>)| TaskConfig {
            name: format!("t{i}"),
            train: "x.jsonl".into(),
            valid: None,
            format: None,
            map: BTreeMap::new(),
            weight: *weight,
            repeat: 1.0,
            cap: None,
            loss_weight: 1.0,
            metrics: Vec::new(),
        };
        weights.iter().enumerate().map(task).collect()
    }

    #[test]
    fn a_task_counts_as_its_samples_repeated_and_capped() {
        let task = |repeat, cap| TaskConfig {
            repeat,
            cap,
            ..tasks(&[None]).remove(0)
        };
        let sizes = [(1.0, None), (2.5, None), (2.5, Some(20)), (0.5, Some(20)), (0.01, None)];
        assert_eq!(
            sizes.map(|(repeat, cap)| task(repeat, cap).size(10)),
            [10, 25, 20, 5, 1]
        );
        assert_eq!(task(3.0, None).size(0), 0);
    }

    #[test]
    fn shares_go_by_size_weight_or_a_power_of_the_size_up_to_a_cap() {
        let sizes = [100, 300, 400];
        let plain = tasks(&[None; 3]);
        let mut mixture = MixtureSection::default();
        assert_eq!(mixture.shares(&plain, &sizes), [0.125, 0.375, 0.5]);
        let weighted = tasks(&[Some(3.0), None, Some(0.0)]);
        assert_eq!(mixture.shares(&weighted, &sizes), [0.75, 0.25, 0.0]);
        mixture.cap = Some(100);
        assert_eq!(mixture.shares(&plain, &sizes), [1.0 / 3.0; 3]);
        mixture = MixtureSection {
            by: Some(MixBy::Temperature),
            ..MixtureSection::default()
        };
        let shares = mixture.shares(&plain, &[100, 400, 900]);
        let expected = [10.0 / 60.0, 20.0 / 60.0, 30.0 / 60.0];
        assert!(
            shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15),
            "{shares:?}"
        );
    }
}
