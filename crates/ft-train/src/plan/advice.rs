//! What to change when a run does not fit, and the micro-batch that does.

use ft_model::LoadDtype;
use ft_optim::OptimConfig;
use ft_peft::PeftConfig;
use ft_quant::{Kind, Scheme};
use serde::Serialize;

use super::bytes::Bytes;
use super::job::{self, Job};
use crate::batches::Batches;
use crate::config::Checkpointing;
use crate::{Error, Result};

/// A change, on top of those before it, and the memory that the run would then take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// As one types it: `train.batch_size=1 train.accumulation=8`.
    pub change: String,
    /// Bytes of all parts.
    pub bytes: u64,
}

/// What a setting does to the plan.
type Change = fn(&mut Job<'_>);

const EIGHT_BIT: &str = "optim.kind=adamw_8bit";

/// Settings that take less memory than those of `job`, beside a smaller micro-batch and the optimizer.
fn changes(job: &Job) -> Vec<(&'static str, Change)> {
    let mut changes: Vec<(&str, Change)> = Vec::new();
    if job.checkpointing == Checkpointing::Off {
        changes.push(("train.checkpointing=1", |job| {
            job.checkpointing = Checkpointing::Every(1)
        }));
    }
    let adapters = !matches!(job.peft, PeftConfig::Full(_));
    if adapters && job.quant.is_none() && !job.model.is_quantized() && job.dtype != LoadDtype::Auto {
        changes.push(("model.quant.kind=nf4", |job| job.quant = Some(Scheme::new(Kind::Nf4))));
    }
    changes
}

/// The names of the settings that are left to change where even one sample does not fit.
pub(super) fn memory_advice(job: &Job) -> Vec<String> {
    let names = changes(job).into_iter().map(|(change, _)| change);
    let states = (job.optim.kind() != "adamw_8bit").then_some(EIGHT_BIT);
    names.chain(states).map(str::to_owned).collect()
}

/// Micro-batches that make up a step of `samples`, the largest first.
fn sizes(samples: usize) -> impl Iterator<Item = usize> {
    (1..=samples).rev().filter(move |size| samples.is_multiple_of(*size))
}

/// Memory with micro-batches of `size` out of steps of `samples`.
fn with(job: &Job, batches: &Batches, size: usize, samples: usize) -> Result<Bytes> {
    job::bytes(&Job {
        batch: batches.largest(size),
        accumulates: size < samples,
        ..*job
    })
}

/// The largest micro-batch of steps of `samples` that takes at most `budget` bytes; 1 where none does.
pub(super) fn largest(job: &Job, batches: &Batches, samples: usize, budget: u64) -> Result<usize> {
    for size in sizes(samples) {
        if with(job, batches, size, samples)?.total() <= budget {
            return Ok(size);
        }
    }
    Ok(1)
}

/// Changes that would help, one on top of the other, until the run fits into `budget`.
pub(super) fn advise(job: &Job, batches: &Batches, [batch, samples]: [usize; 2], budget: u64) -> Result<Vec<Advice>> {
    let mut advice = Vec::new();
    // A step inside the backward pass has one forward pass.
    let size = sizes(samples).filter(|size| *size < batch && !job.in_backward);
    let mut size = size.map(|size| Ok((size, with(job, batches, size, samples)?.total())));
    let first = size.find(|found: &Result<_>| found.as_ref().is_ok_and(|(size, bytes)| *size == 1 || *bytes <= budget));
    let size = match first.transpose()? {
        None => batch,
        Some((size, bytes)) => {
            let change = format!("train.batch_size={size} train.accumulation={}", samples / size);
            advice.push(Advice { change, bytes });
            size
        }
    };
    let eight_bit: Option<OptimConfig> = serde_json::from_value(serde_json::json!({ "kind": "adamw_8bit" })).ok();
    let mut job = *job;
    for (change, apply) in changes(&job) {
        if advice.last().is_some_and(|last| last.bytes <= budget) {
            return Ok(advice);
        }
        apply(&mut job);
        let bytes = with(&job, batches, size, samples)?.total();
        let change = change.to_owned();
        advice.push(Advice { change, bytes });
    }
    if let Some(optim) = eight_bit.filter(|_| advice.last().is_none_or(|last| last.bytes > budget)) {
        let bytes = with(&Job { optim: &optim, ..job }, batches, size, samples)?.total();
        let change = EIGHT_BIT.to_owned();
        advice.push(Advice { change, bytes });
    }
    Ok(advice)
}

/// The error for a device that does not tell how much memory it has.
pub(super) fn unknown_budget() -> Error {
    Error::Plan(vec![
        "train.batch_size: \"auto\" needs to know how much memory there is, and this device does not tell; set \
         train.memory = \"16GB\""
            .into(),
    ])
}
