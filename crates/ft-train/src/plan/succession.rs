//! Whether a method can have a fresh adapter for each task.

use ft_model::ModelConfig;
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
    let (name, method) = (peft.name(), peft.method());
    let refused = |why: String| Err(Error::Plan(vec![why]));
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
    let choice = &attached.choice;
    if let Some(path) = choice.whole.iter().chain(&choice.biases).chain(&choice.rows).next() {
        return refused(format!(
            "{key} starts a fresh adapter for each task, and peft.method = \"{name}\" trains tensors of the base itself (the first is \
             {path}); take a method with adapters alone, or between_tasks = \"continue\""
        ));
    }
    if method.training_hook().is_some() {
        return refused(format!(
            "{key} starts a fresh adapter for each task, and peft.method = \"{name}\" has one schedule for the whole run; take another \
             method"
        ));
    }
    let moves = matches!(peft, PeftConfig::Lora(lora) if lora.moves_base());
    match next {
        Next::Separate if moves => refused(format!(
            "{key}: peft.init moves the base at the start, and every task has the same one; take \"kaiming\" or \"gaussian\""
        )),
        Next::Fold if !method.merges() => refused(format!(
            "{key}: no weight can stand for an adapter of peft.method = \"{name}\"; take another method, or \"continue\""
        )),
        Next::Fold if !foldable(model, job) => refused(format!(
            "{key}: what was learned is lost where the base is held in less than f32; set model.dtype = \"f32\" and leave model.quant \
             out, or take \"continue\""
        )),
        _ => Ok(()),
    }
}

/// Whether every adapted matrix is held in f32.
fn foldable(model: &ModelConfig, job: &Job<'_>) -> bool {
    job.quant.is_none() && !model.is_quantized() && super::job::held_in_f32(job)
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
