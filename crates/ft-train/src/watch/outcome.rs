//! What came out of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::{Checkpoints, Evaluation, TrainerState};
use crate::continual::scores::ContinualScores;
use crate::tasks::Tasks;
use crate::watch::completions::Shown;
use crate::{Plan, memory};

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Every planned step was taken.
    Finished,
    /// Evaluations no longer improved.
    EarlyStopped,
    /// It was asked to stop; a checkpoint holds everything.
    Interrupted,
}

/// The result of [`crate::fit`]; serializes to `report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Why the run ended.
    pub ending: Ending,
    /// Optimizer steps done.
    pub steps: usize,
    /// Passes over the training samples.
    pub epochs: f64,
    /// Tokens fed, padding left out.
    pub tokens: u64,
    /// Seconds of training, evaluations and checkpoints left out.
    pub seconds: f64,
    /// Trainable parameters.
    pub trainable: usize,
    /// Largest memory of the process, in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What the plan expected that to be.
    pub planned_memory_bytes: u64,
    /// Samples in one forward pass at the end, where memory ran out with those of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// The held-out samples before the first step.
    pub before: Option<Score>,
    /// The held-out samples under the weights in `final/`.
    pub after: Option<Score>,
    /// Step and loss of the best evaluation.
    pub best: Option<BestStep>,
    /// Where tasks come one after the other, what each of them came to after every task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continual: Option<ContinualScores>,
    /// Answers before and after.
    pub samples: Vec<BeforeAfter>,
    /// The run folder.
    pub out: PathBuf,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The result, unless the run was interrupted.
    pub final_dir: Option<PathBuf>,
    /// `report.html`, beside a `report.json` of the same content.
    pub report: Option<PathBuf>,
}

/// How well a model does on the held-out samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Mean of the objective's loss: for supervised fine-tuning, the negative log-likelihood in nats per target token.
    pub loss: f64,
    /// e to the mean negative log-likelihood, where it was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// The loss of every task, where there are tasks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, f64>,
    /// Metrics that needed answers.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

impl Score {
    pub(crate) fn new(evaluation: Option<&Evaluation>, shown: &Shown, tasks: &Tasks) -> Option<Self> {
        let Evaluation {
            loss,
            nll,
            tasks: losses,
            metrics,
        } = evaluation?;
        let of_tasks = metrics.iter().map(|(name, value)| (name.clone(), value.0));
        let losses = tasks.0.iter().zip(losses);
        Some(Self {
            loss: loss.0,
            perplexity: nll.map(|nll| nll.0.exp()),
            tasks: losses.map(|(task, loss)| (task.name.clone(), loss.0)).collect(),
            metrics: shown.metrics.clone().into_iter().chain(of_tasks).collect(),
        })
    }
}

/// The best evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BestStep {
    /// Steps done then.
    pub step: usize,
    /// Mean of the objective's loss.
    pub loss: f64,
}

/// One prompt, answered before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BeforeAfter {
    /// The prompt.
    pub prompt: String,
    /// The data's own answer.
    pub expected: String,
    /// The model's before the first step.
    pub before: String,
    /// The model's afterwards.
    pub after: String,
}

impl Outcome {
    pub(crate) fn of(plan: &Plan, state: &TrainerState, ending: Ending, saved: Option<usize>) -> Self {
        Self {
            ending,
            steps: state.step,
            epochs: state.epoch,
            tokens: state.tokens,
            seconds: state.seconds,
            trainable: plan.trainable(),
            peak_memory_bytes: memory::highest(&plan.device),
            planned_memory_bytes: plan.measurable_bytes(),
            micro_batch: state.micro_batch,
            before: None,
            after: None,
            best: state.best.as_ref().map(|b| BestStep {
                step: b.step,
                loss: b.evaluation.loss.0,
            }),
            continual: None,
            samples: Vec::new(),
            out: plan.out().to_owned(),
            checkpoint: saved.map(|step| Checkpoints::of(plan.out()).path(step)),
            final_dir: None,
            report: None,
        }
    }

    pub(crate) fn take_answers(&mut self, before: Shown, after: Shown) {
        // A run resumed without its first answers still shows the later ones.
        let earlier = before
            .samples
            .into_iter()
            .map(|s| s.answer)
            .chain(std::iter::repeat(String::new()));
        self.samples = after
            .samples
            .into_iter()
            .zip(earlier)
            .map(|(s, before)| BeforeAfter {
                prompt: s.prompt,
                expected: s.expected,
                before,
                after: s.answer,
            })
            .collect();
    }
}
