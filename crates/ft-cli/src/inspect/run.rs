//! A run folder: where the run stands, what it has saved and how it has done.

use std::path::{Path, PathBuf};

use ft_quant::Scheme;
use ft_train::checkpoint::{Checkpoints, damage, read_state};
use ft_train::config::PeftSection;
use ft_train::{RunConfig, read_metrics};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::output;

/// A run in numbers.
#[derive(Debug, Serialize)]
pub struct Run {
    state: State,
    model: PathBuf,
    /// How the base is held in codes.
    quant: Option<Scheme>,
    method: String,
    device: Option<String>,
    /// Step of the last line of `metrics.jsonl`.
    step: Option<u64>,
    epoch: Option<f64>,
    loss: Option<f64>,
    first_eval_loss: Option<f64>,
    last_eval_loss: Option<f64>,
    best: Option<Best>,
    checkpoints: Vec<Saved>,
    /// `final/`, once there is one.
    result: Option<PathBuf>,
}

/// What can be told of a run from its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// `final/` is there.
    Finished,
    /// It is going on, or was stopped or killed; a checkpoint can be resumed.
    Unfinished,
    /// As `Unfinished`, without a checkpoint.
    Begun,
}

#[derive(Debug, Serialize)]
struct Best {
    step: usize,
    loss: f64,
}

#[derive(Debug, Serialize)]
struct Saved {
    step: usize,
    path: PathBuf,
    /// What is wrong with it; empty when it can be resumed from.
    damage: Vec<String>,
}

impl Run {
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let config = RunConfig::load(&folder.join("config.toml"), &[])?;
        let metrics = read_metrics(&folder.join("metrics.jsonl"));
        let checkpoints = saved(folder);
        let newest = checkpoints.iter().rev().find(|c| c.damage.is_empty());
        let state = newest.map(|c| read_state(&c.path)).transpose()?;
        let result = Some(folder.join("final")).filter(|p| p.is_dir());
        let last = |key: &str| metrics.iter().rev().find_map(|line| line[key].as_f64());
        let method = match &config.peft {
            PeftSection::Method(method) => method.name().to_string(),
            PeftSection::From(adapter) => format!("goes on from {}", adapter.from.display()),
        };
        Ok(Self {
            state: match (&result, newest) {
                (Some(_), _) => State::Finished,
                (None, Some(_)) => State::Unfinished,
                (None, None) => State::Begun,
            },
            model: config.model.path,
            quant: config.model.quant,
            method,
            device: state.as_ref().map(|s| s.device.clone()),
            step: metrics.iter().rev().find_map(|line| line["step"].as_u64()),
            epoch: last("epoch"),
            loss: last("loss"),
            first_eval_loss: metrics.iter().find_map(|line: &Value| line["eval_loss"].as_f64()),
            last_eval_loss: last("eval_loss"),
            best: state.and_then(|s| s.best).map(|b| Best {
                step: b.step,
                loss: b.evaluation.loss.0,
            }),
            checkpoints,
            result,
        })
    }

    pub fn page(&self) -> String {
        let number = |n: Option<f64>| n.map_or("-".to_string(), |n| format!("{n:.4}"));
        let state = match self.state {
            State::Finished => "finished",
            State::Unfinished => "not finished; `ft train CONFIG --resume` goes on",
            State::Begun => "begun, nothing saved",
        };
        let best = self
            .best
            .as_ref()
            .map_or("-".to_string(), |b| format!("{:.4} after step {}", b.loss, b.step));
        let mut rows = vec![
            ("run", state.to_string()),
            ("model", self.model.display().to_string()),
            ("held as", held(self.quant)),
            ("method", self.method.clone()),
            (
                "step",
                self.step.map_or("-".to_string(), |s| {
                    format!("{s} (epoch {:.2})", self.epoch.unwrap_or(0.0))
                }),
            ),
            ("loss", number(self.loss)),
            (
                "held out",
                format!(
                    "{} at first, {} last, best {best}",
                    number(self.first_eval_loss),
                    number(self.last_eval_loss)
                ),
            ),
        ];
        rows.extend(self.checkpoints.iter().map(|c| match c.damage.is_empty() {
            true => ("checkpoint", c.path.display().to_string()),
            false => (
                "checkpoint",
                format!("{}: damaged ({})", c.path.display(), c.damage.join("; ")),
            ),
        }));
        rows.extend(self.result.iter().map(|path| ("result", path.display().to_string())));
        output::fields(&rows)
    }
}

/// How a run or an adapter holds its base.
pub(super) fn held(quant: Option<Scheme>) -> String {
    quant.map_or("stored".to_string(), |scheme| scheme.to_string())
}

fn saved(folder: &Path) -> Vec<Saved> {
    let checkpoints = Checkpoints::of(folder);
    let describe = |step: usize| {
        let path = checkpoints.path(step);
        Saved {
            step,
            damage: trouble(&path),
            path,
        }
    };
    checkpoints.steps().into_iter().map(describe).collect()
}

/// Why a checkpoint cannot be resumed from: a damaged one must not keep the rest of the run from being shown.
fn trouble(checkpoint: &Path) -> Vec<String> {
    let Err(why) = read_state(checkpoint) else {
        return Vec::new();
    };
    match damage(checkpoint) {
        found if found.is_empty() => vec![why.to_string()],
        found => found,
    }
}
