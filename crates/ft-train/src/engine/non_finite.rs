//! A step whose loss or gradient is no number must not reach the weights: it is left out, and its samples are kept.

use std::path::PathBuf;

use ft_data::Tokenizer;
use ft_optim::GradNorm;
use serde_json::{Value, json};

use crate::batches::StepBatch;
use crate::checkpoint::write_file;
use crate::watch::metrics::StepOutput;
use crate::{Error, Plan, Result};

/// Looks at every step before the optimizer does.
pub struct Guard {
    /// So many bad steps in a row stop the run.
    pub limit: usize,
    /// Where their samples go.
    pub folder: PathBuf,
    tokenizer: Tokenizer,
}

/// What a bad step came to.
#[derive(Clone, Copy, Debug)]
pub struct Bad {
    /// Mean loss.
    pub loss: f64,
    /// Norm of the gradient.
    pub grad_norm: f64,
}

impl Guard {
    /// The guard of a run, unless `train.max_bad_steps` is 0.
    pub fn new(plan: &Plan) -> Option<Self> {
        let limit = plan.config.train.max_bad_steps;
        (limit > 0).then(|| Self {
            limit,
            folder: plan.out().join("bad_steps"),
            tokenizer: plan.tokenizer.clone(),
        })
    }

    /// Whether a step is bad. Waits for the device.
    ///
    /// # Errors
    /// What went wrong on the device in this step.
    pub fn judge(&self, output: &StepOutput) -> Result<Option<Bad>> {
        let norm = output.grad_norm.as_ref().map_or(Ok(0.0), GradNorm::try_value);
        let bad = Bad {
            loss: output.mean_loss()?,
            grad_norm: norm.map_err(Error::device)?,
        };
        Ok((!bad.loss.is_finite() || !bad.grad_norm.is_finite()).then_some(bad))
    }

    /// Writes the samples of a bad step: their ids, what of them is learned, and their text.
    pub fn keep(&self, step: usize, bad: Bad, batch: &StepBatch) -> Result<()> {
        let path = self.file(step);
        let samples: Vec<Value> = batch
            .micro_batches
            .iter()
            .flat_map(|m| self.samples(&m.batch))
            .collect();
        let value = json!({
            "step": step,
            "loss": format!("{}", bad.loss),
            "grad_norm": format!("{}", bad.grad_norm),
            "samples": samples,
        });
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, e))?;
        write_file(&path, format!("{value:#}\n").as_bytes())
    }

    /// Where the samples of a bad step go.
    pub fn file(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step}.json"))
    }

    fn samples(&self, batch: &ft_data::Batch) -> Vec<Value> {
        let with_text = |mut row: Value| {
            let ids = row["ids"].as_array().into_iter().flatten();
            let ids: Vec<u32> = ids.filter_map(|id| id.as_u64()).map(|id| id as u32).collect();
            row["text"] = json!(self.tokenizer.decode(&ids, false));
            row
        };
        rows_of(batch).into_iter().map(with_text).collect()
    }
}

/// `[{"ids": [..], "learn": [..]}, ..]`, one object per sequence.
pub fn rows_of(batch: &ft_data::Batch) -> Vec<serde_json::Value> {
    let learned: std::collections::HashSet<i32> = batch.positions.iter().map(|p| p + 1).collect();
    let row = |r: usize| {
        let cells = batch.cells(r);
        let learn: Vec<bool> = cells.clone().map(|c| learned.contains(&(c as i32))).collect();
        json!({ "ids": &batch.ids[cells], "learn": learn })
    };
    (0..batch.sequences()).map(row).collect()
}
