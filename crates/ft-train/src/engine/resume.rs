//! Going on from a checkpoint: which one, whether it still fits, and what must not stay beside it.

use std::path::{Path, PathBuf};

use ft_model::Model;
use ft_optim::{Optim, load_trainable_tensors};
use ft_ranks::Ranks;

use crate::checkpoint::{self, Checkpoints, Fingerprints, OPTIMIZER, TRAINABLE, TrainerState, read_tensors};
use crate::engine::fit::Event;
use crate::engine::method_hook::MethodHook;
use crate::engine::shards::Shards;
use crate::{Error, Plan, Result};

/// Which checkpoint to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest of the run folder that is whole.
    Latest,
    /// This one, or the newest whole one of this run folder.
    From(PathBuf),
}

/// Makes the run folder ready; the checkpoint to go on from, if there is one.
pub(crate) fn prepare(
    plan: &Plan,
    resume: Option<Resume>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Option<(PathBuf, TrainerState)>> {
    let out = plan.out();
    let checkpoints = Checkpoints::of(out);
    let Some(resume) = resume else {
        // A run that was stopped before its first checkpoint has nothing to lose.
        if !checkpoints.steps().is_empty() || out.join("final").exists() {
            return Err(Error::Occupied(out.to_owned()));
        }
        checkpoints.prepare()?;
        return Ok(None);
    };
    checkpoints.prepare()?;
    checkpoint::clean(out)?;
    let (path, warnings) = match resume {
        Resume::Latest => checkpoints.latest()?,
        Resume::From(path) if path.join("checkpoints").is_dir() => Checkpoints::of(&path).latest()?,
        Resume::From(path) => (path, Vec::new()),
    };
    warnings.into_iter().for_each(|w| on_event(&Event::Warning(w)));
    let state = checkpoint::read_state(&path)?;
    fits(plan, &path, &state, on_event)?;
    // What lies after the checkpoint belongs to a continuation that is given up; a later resume must not pick it.
    for aside in checkpoints.set_aside_after(state.step)? {
        on_event(&Event::Warning(format!(
            "{}: set aside, the run goes on from step {}",
            aside.display(),
            state.step
        )));
    }
    on_event(&Event::Resumed {
        step: state.step,
        path: path.clone(),
    });
    Ok(Some((path, state)))
}

/// Whether a checkpoint means the same under this plan as when it was written.
fn fits(plan: &Plan, path: &Path, state: &TrainerState, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
    let changes = checkpoint::compare(&state.config, &plan.config.to_toml(None));
    let (fatal, told): (Vec<_>, Vec<_>) = changes.into_iter().partition(|c| c.fatal);
    let mut fatal: Vec<String> = fatal.iter().map(ToString::to_string).collect();
    let now = fingerprints(plan);
    if state.crc32.data != now.data {
        fatal.push("data.train: the training samples are not those of the checkpoint".into());
    }
    if state.crc32.base != now.base {
        fatal.push("model.path: the base model is not the one of the checkpoint".into());
    }
    if !fatal.is_empty() {
        return Err(Error::Changed {
            path: path.to_owned(),
            changes: fatal,
        });
    }
    for change in told {
        on_event(&Event::Warning(format!("changed since the checkpoint: {change}")));
    }
    Ok(())
}

/// What the run is made of, beside its configuration.
pub(crate) fn fingerprints(plan: &Plan) -> Fingerprints {
    Fingerprints {
        data: plan.data.crc32,
        base: plan.base_crc32,
    }
}

/// Puts weights and moments back, bit by bit; of the moments this rank's own, where ranks are `sharing` them.
pub(crate) fn restore(
    model: Model,
    mut optim: Optim,
    method: &mut MethodHook,
    path: &Path,
    state: &TrainerState,
    sharing: Option<&Ranks>,
) -> Result<(Model, Optim, TrainerState)> {
    let model = method.restore(path, model)?;
    let mut model = load_trainable_tensors(model, read_tensors(&path.join(TRAINABLE))?)?;
    let mut states = read_tensors(&path.join(OPTIMIZER))?;
    if let Some(ranks) = sharing {
        states = Shards::of(&model, ranks).taken(ranks.rank(), states);
    }
    optim.load_state_dict(&model, states)?;
    method.load(path, &mut model)?;
    Ok((model, optim, state.clone()))
}
