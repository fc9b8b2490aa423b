//! Adapters by name while requests run: each request keeps the one that it was given, whatever is loaded or dropped since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use ft_model::Model;
use ft_peft::{Adapters, RowChoice};

use crate::engine::RequestError;

/// A loaded adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// What requests call it.
    pub name: String,
    /// The folder it was read from.
    pub folder: PathBuf,
    /// Counts everything that was loaded: another load under the same name has another one.
    pub generation: u64,
}

/// What requests ask for: the newest adapter of each name. A request holds the `Arc` for as long as it runs.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<String, Arc<AdapterInfo>>>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AdapterInfo>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn find(&self, name: &str) -> Result<Arc<AdapterInfo>, RequestError> {
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| RequestError::UnknownAdapter(name.into()))
    }

    pub fn list(&self) -> Vec<AdapterInfo> {
        self.lock().values().map(|info| (**info).clone()).collect()
    }
}

/// The adapters in the model's slots, those included whose name was dropped or given to another while requests run with them.
pub(super) struct Held {
    set: Adapters,
    rows: Option<RowChoice>,
    /// In the order of their numbers.
    loaded: Vec<Arc<AdapterInfo>>,
    most: usize,
    generation: u64,
    names: Arc<Names>,
}

fn key(info: &AdapterInfo) -> String {
    format!("{}#{}", info.name, info.generation)
}

impl Held {
    pub fn new(model: &mut Model, most: usize, names: Arc<Names>) -> Self {
        Self {
            set: Adapters::new(model),
            rows: None,
            loaded: Vec::new(),
            most,
            generation: 0,
            names,
        }
    }

    /// Reads the adapter in `folder`; requests that come from now on and name it get this one.
    pub fn load(&mut self, model: &mut Model, name: &str, folder: &Path, replace: bool) -> Result<AdapterInfo, String> {
        if !replace && self.names.find(name).is_ok() {
            return Err(format!(
                "\"{name}\" is loaded already; unload it first, or ask for it to be replaced"
            ));
        }
        if self.loaded.len() >= self.most {
            return Err(format!(
                "{} adapters are loaded, which is all that may be",
                self.loaded.len()
            ));
        }
        self.generation += 1;
        let info = Arc::new(AdapterInfo {
            name: name.into(),
            folder: folder.into(),
            generation: self.generation,
        });
        self.set.load(model, &key(&info), folder).map_err(|e| e.to_string())?;
        self.loaded.push(info.clone());
        if let Err(why) = self.mix(model) {
            self.loaded.pop();
            let cleaned = self.set.remove(model, &key(&info)).map_err(|e| e.to_string());
            return Err(cleaned.and_then(|()| self.mix(model)).err().unwrap_or(why));
        }
        self.names.lock().insert(name.into(), info.clone());
        Ok((*info).clone())
    }

    /// Takes the name away; requests that run with the adapter end with it.
    pub fn unload(&mut self, name: &str) -> Result<(), String> {
        let gone = self.names.lock().remove(name);
        gone.map(drop)
            .ok_or_else(|| RequestError::UnknownAdapter(name.into()).to_string())
    }

    /// Drops the adapters that nothing refers to any more; whether there were any.
    pub fn sweep(&mut self, model: &mut Model) -> Result<bool, String> {
        if self.loaded.iter().all(|info| Arc::strong_count(info) > 1) {
            return Ok(false);
        }
        // Only this list and no name, request or caller: nobody can take hold of it again.
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.loaded)
            .into_iter()
            .partition(|info| Arc::strong_count(info) > 1);
        self.loaded = kept;
        for info in gone {
            self.set.remove(model, &key(&info)).map_err(|e| e.to_string())?;
        }
        self.mix(model).map(|()| true)
    }

    /// Those of the adapters that are held.
    pub fn generations(&self) -> Vec<u64> {
        self.loaded.iter().map(|info| info.generation).collect()
    }

    /// Tells the model whose rows the next call has.
    pub fn set_rows<'a>(&self, rows: impl Iterator<Item = Option<&'a Arc<AdapterInfo>>>) {
        let Some(choice) = &self.rows else { return };
        let number = |info: &Arc<AdapterInfo>| self.loaded.iter().position(|held| Arc::ptr_eq(held, info));
        choice.set(rows.map(|row| row.and_then(number)).collect());
    }

    fn mix(&mut self, model: &mut Model) -> Result<(), String> {
        let keys: Vec<String> = self.loaded.iter().map(|info| key(info)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.rows = None;
        self.rows = Some(self.set.mix(model, &keys).map_err(|e| e.to_string())?);
        Ok(())
    }
}
