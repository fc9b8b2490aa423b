//! `trainer_state.json`: everything of a run that is neither a weight nor a moment.

use std::collections::BTreeMap;

use ft_optim::LossScale;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Provenance;

/// Where a run stands. Random streams and the data order are functions of (seed, step), so the step is their state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps done.
    pub step: usize,
    /// Passes over the training samples done.
    pub epoch: f64,
    /// Next batch of the current epoch: the data cursor.
    pub cursor: usize,
    /// Tokens fed, padding left out.
    pub tokens: u64,
    /// The one seed.
    pub seed: u64,
    /// Steps without an update, because their loss or gradient was no number.
    #[serde(default)]
    pub skipped: usize,
    /// Those of them since the last update.
    #[serde(default)]
    pub skipped_in_a_row: usize,
    /// The scale of the loss, where activations are in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Samples in one forward pass, where memory ran out with those of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Sums since the last logged step.
    pub pending: Pending,
    /// Step of the last evaluation.
    pub evaluated: Option<usize>,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Early stopping's memory.
    pub patience: Patience,
    /// The evaluation before the first step.
    pub first_eval: Option<Evaluation>,
    /// The last evaluation.
    pub last_eval: Option<Evaluation>,
    /// What tasks one after the other have come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continual: Option<ContinualState>,
    /// Seconds of training before this checkpoint, evaluations and pauses left out.
    pub seconds: f64,
    /// The last lines of `metrics.jsonl`.
    pub log_history: Vec<Value>,
    /// What wrote it.
    pub version: String,
    /// Commit of the program.
    pub commit: Option<String>,
    /// Device of the run.
    pub device: String,
    /// Checksums of what the run is made of.
    pub crc32: Fingerprints,
    /// CRC-32 of `config`.
    pub config_crc32: u32,
    /// The resolved configuration as TOML, to tell later what changed.
    pub config: String,
}

/// CRC-32 of what a run is made of, beside its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// The training samples: tokens and learned marks.
    pub data: u32,
    /// The base model: its configuration, and beginning, end and length of its weight files.
    pub base: u32,
}

/// Sums of a log interval that is not over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Sum of the objective's loss.
    pub loss: Exact,
    /// Units that it is a sum over.
    pub count: u64,
    /// Sums and counts of the objective's other figures, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, (Exact, u64)>,
}

impl Pending {
    /// Adds to a figure.
    pub fn add(&mut self, name: &str, sum: f64, count: usize) {
        let (total, units) = self.figures.entry(name.to_owned()).or_default();
        total.0 += sum;
        *units += count as u64;
    }

    /// The means of the figures by name.
    pub fn means(&self) -> impl Iterator<Item = (&str, f64)> {
        let figures = self.figures.iter();
        figures.map(|(name, (sum, count))| (name.as_str(), sum.0 / (*count).max(1) as f64))
    }
}

/// What an evaluation came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean of the objective's loss.
    pub loss: Exact,
    /// Mean negative log-likelihood in nats per target token, where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<Exact>,
    /// Mean of the objective's loss of every task, where there are tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Exact>,
    /// Metrics of the tasks' answers by the names that they have in the log, where tasks have metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Exact>,
}

/// What tasks one after the other have come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContinualState {
    /// The loss of every task, a row for every task that has ended.
    pub matrix: Vec<Vec<Exact>>,
    /// Perplexity of general text before the first step.
    pub general_before: Option<Exact>,
    /// After the last task.
    pub general_after: Option<Exact>,
}

/// An evaluation that no other has beaten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps done then.
    pub step: usize,
    /// What it came to.
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// What early stopping remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patience {
    /// Loss that an evaluation must improve on.
    pub best: Option<Exact>,
    /// Evaluations in a row that did not.
    pub failed: usize,
}

/// A number written with every bit: decimal for people, and read back from its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Debug writes the shortest decimal that reads back to the same bits.
        serializer.serialize_str(&format!("{:?}", self.0))
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(Exact)
            .map_err(|_| serde::de::Error::custom(format!("\"{text}\" is not a number")))
    }
}

impl TrainerState {
    /// The state before the first step.
    pub fn start(seed: u64, config: String, crc32: Fingerprints, from: &Provenance) -> Self {
        Self {
            step: 0,
            epoch: 0.0,
            cursor: 0,
            tokens: 0,
            seed,
            skipped: 0,
            skipped_in_a_row: 0,
            loss_scale: None,
            micro_batch: None,
            pending: Pending::default(),
            evaluated: None,
            best: None,
            patience: Patience::default(),
            first_eval: None,
            last_eval: None,
            continual: None,
            seconds: 0.0,
            log_history: Vec::new(),
            version: from.version.clone(),
            commit: from.commit.clone(),
            device: from.device.clone(),
            crc32,
            config_crc32: crc32fast::hash(config.as_bytes()),
            config,
        }
    }

    /// SavedActivations the tail of the log short: the whole of it is in `metrics.jsonl`.
    pub fn log(&mut self, line: Value) {
        const TAIL: usize = 20;
        self.log_history.push(line);
        let extra = self.log_history.len().saturating_sub(TAIL);
        self.log_history.drain(..extra);
    }
}
