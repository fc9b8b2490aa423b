//! The samples of several tasks side by side, and the course of a run over them.

use std::ops::Range;

use ft_data::{Cached, Counts, Sample, Statistics, checksum, passing};

use super::data::{self, DataSummary, Loaded, Readers, TaskSummary};
use crate::batches::Batches;
use crate::config::{AdapterSharing, MixOrder, RunConfig, TaskConfig};
use crate::continual::{Copies, Next};
use crate::tasks::{Course, Mixture, Share, Task, Tasks};
use crate::{Error, Result};

/// Most samples of an epoch: their numbers are listed one by one.
const MOST: f64 = 1e9;

/// The samples of all tasks, in the order of the tables.
pub(super) fn load(config: &RunConfig, readers: Readers) -> Result<Loaded> {
    let tokenizer = readers.tokenizer;
    let files = |task: &TaskConfig| data::found(&task.data(&config.data), |key| task.key(key));
    data::present(config.task.iter().flat_map(files))?;
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    let (mut counts, mut held_out) = (Counts::default(), Counts::default());
    let (mut formats, mut tasks, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    let (mut leaked, mut cached) = (Vec::new(), Vec::<Cached>::new());
    for task in &config.task {
        let (own, out) = data::pair(config, &task.data(&config.data), readers)?;
        let Some(out) = out.filter(|out| !out.samples.is_empty()) else {
            empty.push(task.key("no held-out rows are left; give valid, or a larger data.valid_split"));
            continue;
        };
        if !formats.contains(&own.format.as_str()) {
            formats.push(own.format.as_str());
        }
        leaked.push(data::leaked(&own, Some(&out)));
        cached.extend(data::cached([Some(&own), Some(&out)]));
        counts.add(&own.statistics.counts);
        held_out.add(&out.statistics.counts);
        tasks.push(Task {
            name: task.name.clone(),
            train: extend(&mut train, own.samples),
            valid: extend(&mut valid, out.samples),
            loss_weight: task.loss_weight,
        });
    }
    if !empty.is_empty() {
        return Err(Error::Plan(empty));
    }
    let tasks = Tasks(tasks);
    let summary = DataSummary {
        format: formats.join(" + "),
        labelled: config.data.labels.is_some(),
        train: Statistics::measure(&train, counts, tokenizer),
        valid: Some(Statistics::measure(&valid, held_out, tokenizer)),
        leaked: leaked.iter().sum(),
        stop_token: None,
        crc32: checksum(&train),
        cached,
        tasks: tasks
            .0
            .iter()
            .zip(leaked)
            .map(|(task, leaked)| summary(task, &train, leaked))
            .collect(),
    };
    Ok(Loaded {
        train,
        valid,
        summary,
        tasks,
    })
}

fn extend(all: &mut Vec<Sample>, own: Vec<Sample>) -> Range<usize> {
    let start = all.len();
    all.extend(own);
    start..all.len()
}

fn summary(task: &Task, train: &[Sample], leaked: usize) -> TaskSummary {
    TaskSummary {
        name: task.name.clone(),
        samples: task.train.len(),
        learned: passing(&train[task.train.clone()]).map(Sample::target_tokens).sum(),
        held_out: task.valid.len(),
        leaked,
        per_epoch: 0,
    }
}

/// What a run over `samples` training samples is fed, and where its tasks end if they come one after the other. An optimizer step
/// takes `in_step` samples.
///
/// # Errors
/// Shares with which an epoch would never end; more steps than can be counted.
pub(super) fn course(
    config: &RunConfig,
    tasks: &Tasks,
    samples: usize,
    in_step: usize,
) -> Result<(Course, Vec<usize>)> {
    let Some(continual) = &config.continual else {
        let course = match (tasks.0.is_empty(), config.mixture.order) {
            (true, _) => Course::of(Mixture::whole(0..samples)),
            (false, MixOrder::Cumulative) => cumulative(config, tasks, in_step)?,
            (false, _) => Course::of(mixture(config, tasks, tasks.0.len())?),
        };
        return Ok((course, Vec::new()));
    };
    let steps = |task: &Task| match (continual.steps_per_task, config.train.steps) {
        (Some(each), _) => each,
        (None, Some(all)) => all.div_ceil(tasks.0.len()),
        (None, None) => {
            let per_epoch = task.train.len().div_ceil(in_step) as f64;
            ((config.train.epochs.unwrap_or(1.0) * per_epoch).ceil() as usize).max(1)
        }
    };
    let mut ends = Vec::new();
    let mut end = 0usize;
    for task in &tasks.0 {
        let too_many = || Error::Plan(vec!["continual.steps_per_task: more steps than can be counted".into()]);
        end = end.checked_add(steps(task)).ok_or_else(too_many)?;
        ends.push(end);
    }
    if continual.strategy.kind().is_joint() {
        return Ok((Course::of(mixture(config, tasks, tasks.0.len())?), ends));
    }
    let phases = tasks
        .0
        .iter()
        .map(|task| (Mixture::whole(task.train.clone()), steps(task)));
    Ok((Course::phases(phases), ends))
}

/// The first `joined` tasks in their shares.
fn mixture(config: &RunConfig, tasks: &Tasks, joined: usize) -> Result<Mixture> {
    let (typed, tasks) = (&config.task[..joined], &tasks.0[..joined]);
    let size = |(typed, task): (&TaskConfig, &Task)| typed.size(task.train.len());
    let sizes: Vec<usize> = typed.iter().zip(tasks).map(size).collect();
    let shares = config.mixture.shares(typed, &sizes);
    let of_task = |((task, size), share): ((&Task, &usize), f64)| Share {
        rows: task.train.clone(),
        size: *size,
        share,
    };
    let shares: Vec<Share> = tasks.iter().zip(&sizes).zip(shares).map(of_task).collect();
    let epoch = Mixture::length(&shares, config.mixture.epoch);
    if epoch > MOST {
        return Err(Error::Plan(vec![format!(
            "mixture.epoch: with these shares an epoch has {epoch:.0} samples; set mixture.epoch = \"samples\", or raise the smallest \
             task.weight"
        )]));
    }
    let mixture = Mixture::new(&shares, config.mixture.epoch);
    Ok(match config.mixture.order {
        MixOrder::Sequential => mixture.sequential(),
        MixOrder::Mixed | MixOrder::Cumulative => mixture,
    })
}

/// As many stages as tasks, each with one task more.
fn cumulative(config: &RunConfig, tasks: &Tasks, in_step: usize) -> Result<Course> {
    let stages = (1..=tasks.0.len()).map(|joined| mixture(config, tasks, joined));
    let stages: Vec<Mixture> = stages.collect::<Result<_>>()?;
    let lengths = stages.iter().map(|stage| stage.samples().div_ceil(in_step));
    let (parts, total): (Vec<f64>, f64) = match (config.train.steps, config.train.epochs) {
        (Some(steps), _) => (vec![1.0 / stages.len() as f64; stages.len()], steps as f64),
        (None, epochs) => {
            let all = lengths.clone().sum::<usize>() as f64;
            (
                lengths.map(|steps| steps as f64 / all).collect(),
                (epochs.unwrap_or(1.0) * all).ceil(),
            )
        }
    };
    let mut done = 0.0;
    let mut starts = vec![0];
    for part in &parts {
        done += part * total;
        starts.push(done.round() as usize);
    }
    if starts.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Plan(vec![format!(
            "mixture.order: \"cumulative\" has {} stages, and {total:.0} steps do not give each of them one; raise train.steps",
            stages.len()
        )]));
    }
    let steps = starts.windows(2).map(|pair| pair[1] - pair[0]);
    // The last stage lasts as long as the run.
    let steps = steps.take(stages.len() - 1).chain([usize::MAX]);
    Ok(Course::phases(stages.into_iter().zip(steps.collect::<Vec<_>>())))
}

/// Writes into the summary what a pass over the course takes of each task.
pub(super) fn count(summary: &mut DataSummary, tasks: &Tasks, course: &Course) {
    for (summary, task) in summary.tasks.iter_mut().zip(&tasks.0) {
        let phases = course.list().iter();
        summary.per_epoch = phases.map(|phase| phase.mixture.samples_of(&task.train)).sum();
    }
}

/// The samples of tasks whose adapters are their own.
pub(super) fn apart(config: &RunConfig, tasks: &Tasks) -> Vec<Range<usize>> {
    match config.mixture.adapter {
        AdapterSharing::Shared => Vec::new(),
        AdapterSharing::PerTask => tasks.0.iter().map(|task| task.train.clone()).collect(),
    }
}

/// Whether the strategy against forgetting adds forward passes to a step.
pub(super) fn adds_passes(config: &RunConfig) -> bool {
    let strategy = config.continual.as_ref().map(|section| section.strategy.kind());
    strategy.is_some_and(|kind| kind.adds_passes())
}

/// The memory that a strategy against forgetting takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Tasks, one after the other.
    pub tasks: usize,
    /// What becomes of the adapter between two of them.
    pub next: Next,
    /// Copies of what trains.
    pub copies: Copies,
    /// Probabilities of the whole vocabulary are compared.
    pub distills: bool,
    /// Bytes that are kept of earlier samples when the last task begins.
    pub remembered: u64,
    /// Adapters that train, each with its gradients and its optimizer's state: one for each task, or one.
    pub adapters: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            tasks: 0,
            next: Next::Continue,
            copies: Copies::default(),
            distills: false,
            remembered: 0,
            adapters: 1,
        }
    }
}

impl Kept {
    /// Copies of what trains, all together.
    pub fn copies(&self) -> usize {
        self.copies.kept + self.copies.in_step + self.next.kept(self.tasks)
    }

    /// In a run over these tasks.
    pub fn of(config: &RunConfig, tasks: &Tasks, batches: &Batches) -> Self {
        let Some(section) = &config.continual else {
            return Self {
                adapters: apart(config, tasks).len().max(1),
                ..Self::default()
            };
        };
        let phases = batches.course().list();
        let earlier = &phases[..phases.len().saturating_sub(1)];
        let fed = earlier.iter().zip(&tasks.0).map(|(phase, task)| {
            let steps = phase.steps.saturating_mul(batches.step_samples());
            steps.min(task.train.len())
        });
        let learned = passing(batches.samples()).map(Sample::target_tokens).sum::<usize>();
        let tokens = learned as f64 / batches.samples().len().max(1) as f64;
        let kind = section.strategy.kind();
        Self {
            tasks: tasks.0.len(),
            next: section.next(),
            copies: kind.copies(tasks.0.len()),
            distills: kind.distills(),
            remembered: kind.remembers(fed.sum(), tokens),
            adapters: 1,
        }
    }
}
