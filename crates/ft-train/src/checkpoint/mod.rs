//! Checkpoints: folders `checkpoints/step-N` that hold all that an exact resume needs.
//!
//! ```text
//! step-N/  trainable.safetensors    what trains, f32, by parameter path
//!          optimizer.safetensors    moments, by parameter path
//!          training_hook.safetensors       what the method itself remembers (AdaLoRA: importances, ranks), where it does
//!          continual.safetensors    what a strategy against forgetting remembers (EWC: Fisher information, anchors), where there is one
//!          earlier_tasks.safetensors  what the adapters of earlier tasks ended with, where each task has a fresh one
//!          task_adapters.safetensors  values and moments of the other tasks' adapters, where tasks train their own side by side
//!          trainer_state.json       step, data cursor, sums, best evaluation, configuration
//!          adapter_* | model.*      the same weights as others read them (PEFT or Hugging Face layout); not where adapters are folded
//!          manifest.json            size and CRC-32 of every file
//! ```

mod changes;
mod folder;
pub(crate) mod lock;
mod state;
mod tensors;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use changes::flat;
pub use changes::{Change, compare};
pub use folder::{Draft, clean, damage, write_file};
pub use state::{Best, ContinualState, Evaluation, Exact, Fingerprints, Patience, Pending, TrainerState};
pub use tensors::{read_tensors, write_saved, write_tensors};

use crate::{Error, Result};

pub(crate) const TRAINABLE: &str = "trainable.safetensors";
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
pub(crate) const HOOK: &str = "training_hook.safetensors";
pub(crate) const CONTINUAL: &str = "continual.safetensors";
pub(crate) const EARLIER: &str = "earlier_tasks.safetensors";
pub(crate) const TASK_ADAPTERS: &str = "task_adapters.safetensors";
pub(crate) const STATE: &str = "trainer_state.json";

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Those of the run in `out`.
    pub fn of(out: &Path) -> Self {
        Self {
            folder: out.join("checkpoints"),
        }
    }

    /// `checkpoints/step-N`.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }

    /// Steps of which there is a checkpoint, ascending.
    pub fn steps(&self) -> Vec<usize> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let step = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<usize> = entries.filter_map(|e| step(e.file_name())).collect();
        steps.sort_unstable();
        steps
    }

    /// Prepares the folder: leftovers of a killed run go away.
    pub fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, e))?;
        clean(&self.folder)
    }

    /// The newest checkpoint that is whole, and a warning for every newer one that is not.
    pub fn latest(&self) -> Result<(PathBuf, Vec<String>)> {
        let mut warnings = Vec::new();
        for step in self.steps().into_iter().rev() {
            let path = self.path(step);
            let damage = damage(&path);
            if damage.is_empty() {
                return Ok((path, warnings));
            }
            warnings.push(format!(
                "{}: damaged, going back to the one before ({})",
                path.display(),
                damage.join("; ")
            ));
        }
        let why = match warnings.is_empty() {
            true => "no checkpoint to resume from; start the run without --resume".to_owned(),
            false => format!("no checkpoint is whole:\n  {}", warnings.join("\n  ")),
        };
        Err(Error::checkpoint(&self.folder, why))
    }

    /// Renames every checkpoint after `step` to `step-N.old`, which no resume looks at; returns the new paths.
    pub fn set_aside_after(&self, step: usize) -> Result<Vec<PathBuf>> {
        let later = self.steps().into_iter().filter(|s| *s > step);
        let aside = later.map(|later| {
            let (from, to) = (self.path(later), self.folder.join(format!("step-{later}.old")));
            if to.exists() {
                fs::remove_dir_all(&to).map_err(|e| Error::io(&to, e))?;
            }
            fs::rename(&from, &to).map_err(|e| Error::io(&from, e))?;
            Ok(to)
        });
        aside.collect()
    }

    /// Deletes all but the newest `keep` checkpoints and the one at `best`.
    pub fn prune(&self, keep: usize, best: Option<usize>) -> Result<()> {
        let steps = self.steps();
        let old = steps.len().saturating_sub(keep.max(1));
        for step in steps[..old].iter().filter(|s| Some(**s) != best) {
            let path = self.path(*step);
            fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }
}

/// Reads `trainer_state.json` of a checkpoint that is whole.
pub fn read_state(checkpoint: &Path) -> Result<TrainerState> {
    let damage = damage(checkpoint);
    if !damage.is_empty() {
        return Err(Error::checkpoint(checkpoint, format!("damaged: {}", damage.join("; "))));
    }
    let path = checkpoint.join(STATE);
    let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let why = format!("not a trainer state of this version: {e}");
        Error::checkpoint(&path, why)
    })
}
