//! Whether a method can have an adapter for each task.

use ft_peft::{Attached, ModuleSpec, PeftConfig};

use super::job::Job;
use crate::continual::Next;
use crate::{Error, Result};

/// # Errors
/// Methods that leave nothing to fold or to put aside, and a base that cannot take it in.
pub(super) fn possible(next: Next, tasks: usize, job: &Job<'_>) -> Result<()> {
    let Job {
        model, peft, attached, ..
    } = *job;
    let key = match next {
        Next::Continue => return Ok(()),
        Next::Fold => "continual.between_tasks: \"fold\"",
        Next::Freeze => "continual.strategy: \"olora\"",
        Next::Separate => "continual.strategy: \"adapters\"",
    };
    if next == Next::Freeze {
        let specs = model.module_specs();
        ft_peft::stackable(peft, &specs, &attached.choice)
            .map_err(|e| Error::Plan(vec![format!("{key} keeps every task's adapter in use: {e}")]))?;
        return ranks_fit(&specs, peft, attached, tasks);
    }
    match next {
        Next::Separate => separable(key, job),
        _ => foldable(key, job),
    }
}

/// Whether adapters can become parts of the base one after the other.
fn foldable(key: &str, job: &Job<'_>) -> Result<()> {
    adapters_alone(key, job)?;
    let (name, method) = (job.peft.name(), job.peft.method());
    let refused = |why: String| Err(Error::Plan(vec![why]));
    match () {
        () if !method.merges() => refused(format!(
            "{key}: no weight can stand for an adapter of peft.method = \"{name}\"; take another method, or \"continue\""
        )),
        () if job.quant.is_some() || job.model.is_quantized() || !super::job::held_in_f32(job) => refused(format!(
            "{key}: what was learned is lost where the base is held in less than f32; set model.dtype = \"f32\" and leave model.quant \
             out, or take \"continue\""
        )),
        () => Ok(()),
    }
}

/// Whether there may be several adapters over one base.
///
/// # Errors
/// What stands in the way, after the `key` that asks for them.
pub(super) fn separable(key: &str, job: &Job<'_>) -> Result<()> {
    adapters_alone(key, job)?;
    match job.peft {
        PeftConfig::Lora(lora) if lora.moves_base() => Err(Error::Plan(vec![format!(
            "{key}: peft.init moves the base at the start, and every task has the same one; take \"kaiming\" or \"gaussian\""
        )])),
        _ => Ok(()),
    }
}

/// Whether a method leaves the base as it is.
fn adapters_alone(key: &str, job: &Job<'_>) -> Result<()> {
    let (peft, choice) = (job.peft, &job.attached.choice);
    let name = peft.name();
    let refused = |why: String| Err(Error::Plan(vec![why]));
    if let Some(path) = choice.whole.iter().chain(&choice.biases).chain(&choice.rows).next() {
        return refused(format!(
            "{key} wants an adapter for each task, and peft.method = \"{name}\" trains tensors of the base itself (the first is \
             {path}); take a method with adapters alone, or one that all tasks share"
        ));
    }
    if peft.method().training_hook().is_some() {
        return refused(format!(
            "{key} wants an adapter for each task, and peft.method = \"{name}\" has one schedule for the whole run; take another \
             method"
        ));
    }
    Ok(())
}

/// The adapters of all tasks are one of all their ranks, which must fit the matrices too.
fn ranks_fit(specs: &[ModuleSpec], peft: &PeftConfig, attached: &Attached, tasks: usize) -> Result<()> {
    let PeftConfig::Lora(lora) = peft else { return Ok(()) };
    let tall = specs.iter().find(|spec| {
        let rank = lora.rank_at(&spec.path).saturating_mul(tasks);
        attached.choice.adapted.contains(&spec.path) && rank > spec.dims[0].min(spec.dims[1])
    });
    match tall {
        None => Ok(()),
        Some(spec) => Err(Error::Plan(vec![format!(
            "peft.rank: the adapters of {tasks} tasks have rank {} together, which is above the smaller side of {} ({} x {}); take a \
             smaller rank",
            lora.rank_at(&spec.path).saturating_mul(tasks),
            spec.path,
            spec.dims[0],
            spec.dims[1]
        )])),
    }
}
