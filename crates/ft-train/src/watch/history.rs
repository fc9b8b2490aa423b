//! What the run remembers of its numbers: burn-train's event store (in memory, for early stopping) and `metrics.jsonl`
//! (on disk, for people and the report).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde_json::Value;

use crate::{Error, Result, checkpoint};

/// Numbers by metric, virtual epoch and split. Unlike burn-train's own in-memory logger it can start at any epoch,
/// which a resumed run does.
#[derive(Default)]
pub struct EventHistory {
    names: HashMap<MetricId, String>,
    values: HashMap<(String, usize, Split), Vec<NumericEntry>>,
}

impl MetricLogger for EventHistory {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        for numeric in update.entries_numeric {
            let name = self.names.get(&numeric.entry.metric_id).cloned();
            if let (Some(name), Some(value)) = (name, numeric.numeric_entry) {
                self.values.entry((name, epoch, split.clone())).or_default().push(value);
            }
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> std::result::Result<Vec<NumericEntry>, String> {
        Ok(self
            .values
            .get(&(name.to_owned(), epoch, split.clone()))
            .cloned()
            .unwrap_or_default())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}

/// What of a run is done when it goes on from a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Optimizer steps.
    pub step: usize,
    /// Step of the last evaluation: one that a stop left undone is made again.
    pub evaluated: Option<usize>,
}

impl Done {
    /// Whether what was written at `step` stays.
    pub fn covers(&self, step: usize, evaluation: bool) -> bool {
        step <= self.step && (!evaluation || self.evaluated.is_some_and(|evaluated| step <= evaluated))
    }
}

/// `metrics.jsonl`: one JSON object per line, each with a `step`.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file for a run that goes on after `done`: lines of what follows, and a line torn by a kill, go away. A new
    /// run starts an empty one.
    pub fn open(path: &Path, done: Option<Done>) -> Result<Self> {
        let old = std::fs::read(path).unwrap_or_default();
        let old = String::from_utf8_lossy(&old);
        let keep = |line: &&str| done.is_some_and(|done| stays(line, done));
        let kept: Vec<&str> = old.lines().filter(keep).collect();
        let mut text = kept.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        checkpoint::write_file(path, text.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(|e| Error::io(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends one line.
    pub fn push(&mut self, line: &Value) -> Result<()> {
        let text = format!("{line}\n");
        self.file
            .write_all(text.as_bytes())
            .map_err(|e| Error::io(&self.path, e))
    }

    /// Makes everything pushed so far durable.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

fn stays(line: &str, done: Done) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return false;
    };
    let evaluation = ["eval_loss", "samples", "error"]
        .iter()
        .any(|key| line.get(key).is_some());
    line["step"]
        .as_u64()
        .is_some_and(|step| done.covers(step as usize, evaluation))
}

/// Every line of a `metrics.jsonl`; lines that do not parse are left out.
pub fn read_metrics(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}
