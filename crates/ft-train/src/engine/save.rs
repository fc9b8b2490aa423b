//! Writes what a run produces: checkpoints to resume from, and `final/` for everyone else.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use ft_data::Tokenizer;
use ft_model::{LoadDtype, Model};
use ft_optim::{Optim, saved_tensors};
use ft_peft::PeftConfig;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoints, Draft, OPTIMIZER, STATE, TRAINABLE, TrainerState, write_saved, write_tensors};
use crate::config::ObjectiveSection;
use crate::continual::Next;
use crate::engine::method_hook::MethodHook;
use crate::plan::disk;
use crate::tasks::Tasks;
use crate::{Error, Plan, Result};

/// What writing needs to know of the run.
pub struct Saver {
    /// The run folder.
    pub out: PathBuf,
    /// The training device, without autodiff.
    pub device: Device,
    /// Step of the newest checkpoint.
    pub newest: Option<usize>,
    /// A checkpoint is wanted before the next step, whatever the intervals say.
    pub soon: bool,
    checkpoint_bytes: u64,
    base: PathBuf,
    peft: PeftConfig,
    tokenizer: Tokenizer,
    /// Every token at which generation should stop.
    stops: Vec<u32>,
    objective: ObjectiveSection,
    max_length: usize,
}

/// The optimizer's states.
#[derive(Clone, Copy)]
pub enum States<'a> {
    /// Where they are.
    Own(&'a Optim),
    /// By name, from several processes.
    Gathered(&'a [(String, TensorData)]),
}

impl Saver {
    /// A writer for this run, whose newest checkpoint is that of the step `newest`.
    pub fn new(plan: &Plan, newest: Option<usize>) -> Self {
        Self {
            out: plan.out().to_owned(),
            device: plan.device.clone(),
            newest,
            soon: false,
            checkpoint_bytes: plan.disk.checkpoint,
            base: plan.config.model.path.clone(),
            peft: plan.peft.clone(),
            tokenizer: plan.tokenizer.clone(),
            stops: plan.generation.eos_token_id.clone(),
            objective: plan.config.objective.clone(),
            max_length: plan.config.data.max_length,
        }
    }

    /// The name of the newest checkpoint.
    pub fn last(&self) -> String {
        self.newest.map_or("none".to_owned(), |step| format!("step-{step}"))
    }

    /// Writes `checkpoints/step-N` whole or not at all.
    pub fn checkpoint(
        &self,
        model: &Model,
        optim: States<'_>,
        method: &MethodHook,
        state: &TrainerState,
    ) -> Result<PathBuf> {
        let draft = Draft::begin(&Checkpoints::of(&self.out).path(state.step))?;
        let folder = draft.path().to_owned();
        let written = self
            .fill(&folder, model, optim, method, state)
            .and_then(|()| draft.commit());
        written.map_err(|error| self.unwritten(error, folder))
    }

    fn fill(
        &self,
        folder: &Path,
        model: &Model,
        optim: States<'_>,
        method: &MethodHook,
        state: &TrainerState,
    ) -> Result<()> {
        write_saved(&folder.join(TRAINABLE), &saved_tensors(model))?;
        match optim {
            States::Own(optim) => write_saved(&folder.join(OPTIMIZER), &optim.saved_state(model))?,
            States::Gathered(states) => write_tensors(&folder.join(OPTIMIZER), states)?,
        }
        method.save(folder, model)?;
        let path = folder.join(STATE);
        let text = serde_json::to_vec_pretty(state).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        std::fs::write(&path, text).map_err(|e| Error::io(&path, e))?;
        match method.next() {
            // Over a base that is nowhere, an adapter would say nothing to anybody; of several, one would be taken for the result.
            Next::Fold => Ok(()),
            _ if method.has_task_adapters() => Ok(()),
            _ => self.export(model, folder),
        }
    }

    /// Gives back the room that an unfinished checkpoint takes, and says so where it was room that was missing.
    fn unwritten(&self, error: Error, folder: PathBuf) -> Error {
        // What cannot be removed now goes away with the next start.
        let _ = std::fs::remove_dir_all(&folder);
        if !disk::is_full(&error) {
            return error;
        }
        Error::DiskFull {
            needed: self.checkpoint_bytes,
            available: disk::available(&folder),
            path: folder,
            source: Box::new(error),
        }
    }

    /// Writes `initial/`: the weights before the first step, for a replay of the run elsewhere.
    pub fn initial(&self, model: &Model) -> Result<PathBuf> {
        let draft = Draft::begin(&self.out.join("initial"))?;
        self.export(model, draft.path())?;
        draft.commit()
    }

    /// Writes `final/`: the adapter or the full checkpoint, with tokenizer and stop tokens; a folder in it for each task that has an adapter
    /// of its own.
    pub fn finish(&self, model: &Model, method: &MethodHook, tasks: &Tasks) -> Result<PathBuf> {
        let draft = Draft::begin(&self.out.join("final"))?;
        match method.next() {
            _ if method.separates() => {
                for (number, task) in tasks.0.iter().enumerate() {
                    let own = Draft::begin(&draft.path().join(&task.name))?;
                    self.result(&method.model_of(model, Some(number))?, own.path())?;
                    own.commit()?;
                }
            }
            Next::Fold => {
                let mut whole = model.valid();
                ft_peft::fold(&mut whole)?;
                whole.save(draft.path(), LoadDtype::F32)?;
                self.beside(draft.path())?;
            }
            _ => self.result(model, draft.path())?,
        }
        draft.commit()
    }

    fn result(&self, model: &Model, folder: &Path) -> Result<()> {
        self.export(model, folder)?;
        let sizes = [self.max_length, model.config().hidden_size];
        self.objective.kind().write_beside(folder, sizes)?;
        self.beside(folder)
    }

    /// The tokenizer and the stop tokens.
    fn beside(&self, folder: &Path) -> Result<()> {
        self.tokenizer.copy_to(folder)?;
        self.generation_config(folder)
    }

    /// The weights in the layout that others read.
    fn export(&self, model: &Model, folder: &Path) -> Result<()> {
        match &self.peft {
            // What trains is f32, and so is what is written: nothing that was learned is rounded away.
            PeftConfig::Full(_) => Ok(model.valid().save(folder, LoadDtype::F32)?),
            adapter => {
                let base = self.base.to_string_lossy();
                ft_peft::adapter::save(folder, &mut model.valid(), adapter, &base)?;
                Ok(model.config().save_labels(folder)?)
            }
        }
    }

    /// The base's `generation_config.json` with the stop tokens of this run.
    fn generation_config(&self, folder: &Path) -> Result<()> {
        let own = std::fs::read(self.base.join("generation_config.json")).ok();
        let mut keys: Map<String, Value> = own
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let stops = match self.stops.as_slice() {
            [] => return Ok(()),
            [one] => json!(one),
            many => json!(many),
        };
        keys.insert("eos_token_id".into(), stops);
        let path = folder.join("generation_config.json");
        let text = serde_json::to_vec_pretty(&keys).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        std::fs::write(&path, text).map_err(|e| Error::io(&path, e))
    }
}
