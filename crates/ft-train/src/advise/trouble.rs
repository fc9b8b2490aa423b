//! What went wrong in a run, read from its curves, with the keys to change.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::config::{Checkpointing, PeftSection, RunConfig};
use crate::{Error, Result, read_metrics};
use ft_peft::PeftConfig;

/// Something that is wrong with a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trouble {
    /// Its name: `overfitting`, `unstable`, `not learning`, `levelled off`, `out of memory`, `too slow`.
    pub trouble: &'static str,
    /// What shows it.
    pub evidence: String,
    /// Settings to try, the first one first.
    pub changes: Vec<String>,
}

/// What the rules look at.
struct Run {
    config: RunConfig,
    /// Step and training loss.
    losses: Vec<(u64, f64)>,
    /// Step and held-out loss.
    held_out: Vec<(u64, f64)>,
    /// Step and norm of the gradient.
    grad_norms: Vec<(u64, f64)>,
    /// Steps that were left out as no number.
    skipped: u64,
    /// Samples of a forward pass, where memory ran out with more.
    micro_batch: Option<u64>,
    /// The largest memory of a logged step, and what there was.
    memory: Option<(u64, u64)>,
}

/// Everything that stands out in the run in this folder; nothing where all is well.
///
/// # Errors
/// A folder without `config.toml` and `metrics.jsonl`, or with a configuration that cannot be read.
pub fn troubles(run: &Path) -> Result<Vec<Trouble>> {
    let metrics = read_metrics(&run.join("metrics.jsonl"));
    let config = RunConfig::load(&run.join("config.toml"), &[])?;
    let curve = |key: &str| -> Vec<(u64, f64)> {
        let point = |line: &Value| Some((line["step"].as_u64()?, line[key].as_f64()?));
        metrics.iter().filter_map(point).collect()
    };
    let largest = |key: &str| metrics.iter().filter_map(|line| line[key].as_u64()).max();
    let run = Run {
        losses: curve("loss"),
        held_out: curve("eval_loss"),
        grad_norms: curve("grad_norm"),
        skipped: largest("skipped").unwrap_or(0),
        micro_batch: metrics.iter().filter_map(|line| line["micro_batch"].as_u64()).min(),
        memory: largest("memory_bytes").zip(budget(&config)),
        config,
    };
    if run.losses.is_empty() {
        return Err(Error::Plan(vec!["metrics.jsonl: no step is logged yet".into()]));
    }
    Ok([
        out_of_memory,
        unstable,
        not_learning,
        overfitting,
        levelled_off,
        too_slow,
    ]
    .into_iter()
    .filter_map(|rule: fn(&Run) -> Option<Trouble>| rule(&run))
    .collect())
}

/// Bytes that the run could take.
fn budget(config: &RunConfig) -> Option<u64> {
    match &config.train.memory {
        Some(text) => crate::config::bytes_of(text),
        None => crate::memory::available(),
    }
}

fn mean(values: &[(u64, f64)]) -> f64 {
    values.iter().map(|(_, value)| value).sum::<f64>() / values.len().max(1) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Values before the one that is looked at.
const BEFORE: usize = 5;

/// The first value that is `far` from the median of those before it.
fn jump(values: &[(u64, f64)], far: impl Fn(f64, f64) -> bool) -> Option<(u64, f64)> {
    let before = |at: usize| median(values[at - BEFORE..at].iter().map(|(_, value)| *value).collect());
    (BEFORE..values.len())
        .find(|at| far(values[*at].1, before(*at)))
        .map(|at| values[at])
}

fn rate(lr: f64) -> String {
    format!("optim.lr={lr:.0e}")
}

fn out_of_memory(run: &Run) -> Option<Trouble> {
    let size = run.micro_batch?;
    let train = &run.config.train;
    let mut changes = vec![format!(
        "train.batch_size={size} train.accumulation={}",
        (train.batch_size.count() * train.accumulation).div_ceil(size.max(1) as usize)
    )];
    if train.checkpointing == Checkpointing::Off {
        changes.push("train.checkpointing=1".into());
    }
    if run.config.model.quant.is_none() && !is_full(run) {
        changes.push("model.quant.kind=nf4".into());
    }
    changes.push("optim.kind=adamw_8bit".into());
    Some(Trouble {
        trouble: "out of memory",
        evidence: format!("memory ran out, and forward passes were cut to {size} samples"),
        changes,
    })
}

/// A loss or gradient far above those before it, or no numbers.
fn unstable(run: &Run) -> Option<Trouble> {
    let first = median(run.grad_norms.iter().take(BEFORE).map(|(_, norm)| *norm).collect());
    let evidence = if run.skipped > 0 {
        format!("{} steps had a loss or gradient that is no number", run.skipped)
    } else if let Some((step, loss)) = jump(&run.losses, |loss, before| loss > 1.5 * before && loss > before + 0.5) {
        format!("the loss jumps to {loss:.3} at step {step}")
    } else {
        // Gradients that were small because all was learned may grow again without harm.
        let (step, norm) = jump(&run.grad_norms, |norm, before| {
            norm > 20.0 * before && norm > 2.0 * first
        })?;
        format!("the gradient's norm jumps to {norm:.3} at step {step}")
    };
    let mut changes = vec![rate(run.config.optim.lr() / 3.0), "schedule.warmup=0.1".into()];
    if run.config.optim.clip() != Some(1.0) {
        changes.push("optim.clip=1".into());
    }
    Some(Trouble {
        trouble: "unstable",
        evidence,
        changes,
    })
}

fn not_learning(run: &Run) -> Option<Trouble> {
    const LESS: f64 = 0.98;
    let quarter = run.losses.len() / 4;
    if quarter == 0 {
        return None;
    }
    let (first, last) = (
        mean(&run.losses[..quarter]),
        mean(&run.losses[run.losses.len() - quarter..]),
    );
    let held_out = run.held_out.first().zip(run.held_out.last());
    let better = held_out.is_some_and(|((_, first), (_, last))| *last < LESS * first);
    (last >= LESS * first && !better).then(|| Trouble {
        trouble: "not learning",
        evidence: format!("the training loss is {first:.3} in the first quarter and {last:.3} in the last"),
        changes: vec![
            rate(run.config.optim.lr() * 10.0),
            "peft.targets=\"all-linear\"".into(),
            "ft data preview CONFIG: are the answers learned, and nothing else?".into(),
        ],
    })
}

fn overfitting(run: &Run) -> Option<Trouble> {
    const MORE: f64 = 1.02;
    let (last_step, last) = *run.held_out.last()?;
    let (best_step, best) = *run.held_out.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (before, after): (Vec<_>, Vec<_>) = run.losses.iter().partition(|(step, _)| *step <= best_step);
    let falls = !after.is_empty() && mean(&after) < mean(&before);
    (last > MORE * best && falls).then(|| {
        let mut changes = vec![
            "train.load_best=true train.early_stopping.patience=2".into(),
            "optim.weight_decay=0.1".into(),
        ];
        if matches!(method(run), Some(PeftConfig::Lora(_))) {
            changes.push("peft.dropout=0.1".into());
        }
        changes.push("data.augment: more records from those that are there".into());
        Trouble {
            trouble: "overfitting",
            evidence: format!(
                "the held-out loss is {best:.3} at step {best_step} and {last:.3} at step {last_step}, while the training loss falls"
            ),
            changes,
        }
    })
}

/// The loss stands still although nothing is learned by heart.
fn levelled_off(run: &Run) -> Option<Trouble> {
    const STILL: f64 = 0.01;
    const GAP: f64 = 1.05;
    let quarter = run.losses.len() / 4;
    let PeftConfig::Lora(_) = method(run)? else { return None };
    if quarter < 5 {
        return None;
    }
    let (third, last) = (
        mean(&run.losses[run.losses.len() - 2 * quarter..run.losses.len() - quarter]),
        mean(&run.losses[run.losses.len() - quarter..]),
    );
    let first = mean(&run.losses[..quarter]);
    let (_, held_out) = *run.held_out.last()?;
    let still = (third - last).abs() < STILL * last && last < 0.9 * first && held_out < GAP * last && last > 0.5;
    still.then(|| Trouble {
        trouble: "levelled off",
        evidence: format!(
            "the training loss stays at {last:.3}, and the held-out loss is {held_out:.3}: there is room to learn more"
        ),
        changes: vec![
            "peft.rank=32 peft.alpha=64".into(),
            "peft.targets=\"all-linear\"".into(),
            "peft.method=full".into(),
        ],
    })
}

fn too_slow(run: &Run) -> Option<Trouble> {
    let (most, budget) = run.memory?;
    let train = &run.config.train;
    if 2 * most > budget || run.micro_batch.is_some() {
        return None;
    }
    let mut changes = Vec::new();
    if train.checkpointing != Checkpointing::Off {
        changes.push("train.checkpointing=\"off\"".to_owned());
    }
    if train.accumulation > 1 {
        let samples = train.batch_size.count() * train.accumulation;
        changes.push(format!("train.batch_size={samples} train.accumulation=1"));
    }
    (!changes.is_empty()).then(|| Trouble {
        trouble: "too slow",
        evidence: format!(
            "steps take {} of {}: what saves memory costs time",
            crate::memory::human(most),
            crate::memory::human(budget)
        ),
        changes,
    })
}

fn method(run: &Run) -> Option<&PeftConfig> {
    match &run.config.peft {
        PeftSection::Method(method) => Some(method),
        PeftSection::From(_) => None,
    }
}

fn is_full(run: &Run) -> bool {
    matches!(method(run), Some(PeftConfig::Full(_)))
}
