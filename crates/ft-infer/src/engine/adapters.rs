//! Adapters by name while requests run: each request keeps the one that it was given, whatever is loaded or dropped since.
//!
//! A LoRA adapter lies in the slots beside the others, and each row takes its own. One of virtual tokens is a beginning of a cache, and
//! in no slot. What nobody used for longest leaves memory where others need the place, and is read from its folder again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use ft_model::{KvCache, Model};
use ft_peft::{Adapters, RowChoice};

use crate::engine::adapter_files::Files;

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
    /// Virtual tokens that it puts before every text.
    pub virtual_tokens: usize,
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

/// The adapters that have a name or a request; those included whose name was dropped or given to another while requests run with them.
pub(super) struct Held {
    set: Adapters,
    rows: Option<RowChoice>,
    known: Vec<Known>,
    most: Most,
    generation: u64,
    /// Counts uses.
    clock: u64,
    names: Arc<Names>,
}

/// How many adapters there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub known: usize,
    pub in_memory: usize,
}

struct Known {
    info: Arc<AdapterInfo>,
    files: Files,
    memory: Option<Memory>,
    /// When it was asked for last.
    used: u64,
}

/// An adapter in memory.
enum Memory {
    /// In the slots.
    Lora,
    /// What its sequences begin with.
    Virtual(KvCache),
}

fn key(name: &str, generation: u64) -> String {
    format!("{name}#{generation}")
}

impl Known {
    fn key(&self) -> String {
        key(&self.info.name, self.info.generation)
    }

    fn is_mixed(&self) -> bool {
        matches!(self.memory, Some(Memory::Lora))
    }
}

impl Held {
    pub fn new(model: &mut Model, most: Most, names: Arc<Names>) -> Self {
        Self {
            set: Adapters::new(model),
            rows: None,
            known: Vec::new(),
            most,
            generation: 0,
            clock: 0,
            names,
        }
    }

    /// Reads the adapter in `folder`; requests that come from now on and name it get this one. Adapters of the generations `busy`
    /// stay in memory.
    pub fn load(
        &mut self,
        model: &mut Model,
        name: &str,
        folder: &Path,
        replace: bool,
        busy: &[u64],
    ) -> Result<AdapterInfo, String> {
        if !replace && self.names.find(name).is_ok() {
            return Err(format!(
                "\"{name}\" is loaded already; unload it first, or ask for it to be replaced"
            ));
        }
        if self.known.len() >= self.most.known {
            return Err(format!(
                "{} adapters are loaded, which is all that may be",
                self.known.len()
            ));
        }
        let room = self.make_room(model, busy)?;
        let files = Files::of(folder)?;
        let generation = self.generation + 1;
        let memory = self.read(model, &key(name, generation), folder)?;
        let virtual_tokens = match &memory {
            Memory::Lora => 0,
            Memory::Virtual(start) => start.virtual_tokens(),
        };
        self.generation = generation;
        let info = Arc::new(AdapterInfo {
            name: name.into(),
            folder: folder.into(),
            generation,
            virtual_tokens,
        });
        self.clock += 1;
        self.known.push(Known {
            info: info.clone(),
            files,
            memory: Some(memory),
            used: self.clock,
        });
        if !room {
            // It was read to see that it fits; the first request that names it waits for a place.
            self.make_room(model, busy)?;
        }
        self.mix(model)?;
        self.names.lock().insert(name.into(), info.clone());
        Ok((*info).clone())
    }

    /// Makes sure that an adapter is in memory, before a request runs with it; false while others that are in use leave no place.
    pub fn fetch(&mut self, model: &mut Model, info: &Arc<AdapterInfo>, busy: &[u64]) -> Result<Fetched, String> {
        let Some(at) = self.position(info) else {
            return Err("it is not held any more".into());
        };
        self.clock += 1;
        self.known[at].used = self.clock;
        if self.known[at].memory.is_some() {
            return Ok(Fetched::Held);
        }
        if !self.make_room(model, busy)? {
            return Ok(Fetched::Later);
        }
        if Files::of(&info.folder)? != self.known[at].files {
            let folder = info.folder.display();
            return Err(format!(
                "the files in {folder} have changed since it was loaded; load it again in place of this one"
            ));
        }
        let memory = self.read(model, &key(&info.name, info.generation), &info.folder)?;
        self.known[at].memory = Some(memory);
        self.mix(model)?;
        Ok(Fetched::Read)
    }

    /// Reads a folder. The slots hold what rows can be mixed of afterwards, whether it went well or not.
    fn read(&mut self, model: &mut Model, key: &str, folder: &Path) -> Result<Memory, String> {
        let read = self.read_into(model, key, folder);
        if read.is_err() {
            // It may not have come so far as to be in the set.
            let _ = self.set.remove(model, key);
        }
        self.mix(model)?;
        read.map_err(|why| why.replace(key, key.split('#').next().unwrap_or_default()))
    }

    fn read_into(&mut self, model: &mut Model, key: &str, folder: &Path) -> Result<Memory, String> {
        let told = |e: ft_peft::Error| e.to_string();
        self.set.load(model, key, folder).map_err(told)?;
        self.set.activate(model, Some(key)).map_err(told)?;
        let (columns, positions) = (model.virtual_tokens(), model.config().max_position_embeddings);
        if columns == 0 {
            let mixed = self.set.mix(model, &[key]);
            mixed
                .map_err(|e| format!("{e}; such an adapter is served alone, as the model itself, or merged into it"))?;
            return Ok(Memory::Lora);
        }
        if columns >= positions {
            return Err(format!(
                "{columns} virtual tokens leave no position of {positions} for text"
            ));
        }
        let start = ft_kernels::row_invariant(|| model.start());
        self.set.remove(model, key).map_err(told)?;
        Ok(Memory::Virtual(start))
    }

    /// Takes what was used longest ago out of memory, until there is a place for one more; false where all the others are busy. Whoever
    /// calls it reads an adapter next, and mixes what is left.
    fn make_room(&mut self, model: &mut Model, busy: &[u64]) -> Result<bool, String> {
        while self.in_memory() >= self.most.in_memory {
            let idle = self.known.iter_mut();
            let idle = idle.filter(|known| known.memory.is_some() && !busy.contains(&known.info.generation));
            let Some(oldest) = idle.min_by_key(|known| known.used) else {
                return Ok(false);
            };
            let (key, mixed) = (oldest.key(), oldest.is_mixed());
            oldest.memory = None;
            if mixed {
                self.set.remove(model, &key).map_err(|e| e.to_string())?;
                self.mix(model)?;
            }
        }
        Ok(true)
    }

    /// Adapters in memory.
    pub fn in_memory(&self) -> usize {
        self.known.iter().filter(|known| known.memory.is_some()).count()
    }

    /// What a sequence with this adapter begins with, where that is anything.
    pub fn start(&self, info: &Arc<AdapterInfo>) -> Option<KvCache> {
        match self.position(info).map(|at| &self.known[at].memory) {
            Some(Some(Memory::Virtual(start))) => Some(start.clone()),
            _ => None,
        }
    }

    fn position(&self, info: &Arc<AdapterInfo>) -> Option<usize> {
        self.known.iter().position(|known| Arc::ptr_eq(&known.info, info))
    }

    /// Takes the name away; requests that run with the adapter end with it.
    pub fn unload(&mut self, name: &str) -> Result<(), String> {
        let gone = self.names.lock().remove(name);
        gone.map(drop)
            .ok_or_else(|| RequestError::UnknownAdapter(name.into()).to_string())
    }

    /// Drops the adapters that nothing refers to any more; whether there were any.
    pub fn sweep(&mut self, model: &mut Model) -> Result<bool, String> {
        if self.known.iter().all(|known| Arc::strong_count(&known.info) > 1) {
            return Ok(false);
        }
        // Only this list and no name, request or caller: nobody can take hold of it again.
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|known| Arc::strong_count(&known.info) > 1);
        self.known = kept;
        for known in gone.iter().filter(|known| known.is_mixed()) {
            self.set.remove(model, &known.key()).map_err(|e| e.to_string())?;
        }
        self.mix(model).map(|()| true)
    }

    /// Those of the adapters that are held.
    pub fn generations(&self) -> Vec<u64> {
        self.known.iter().map(|known| known.info.generation).collect()
    }

    /// Tells the model whose rows the next call has, by generation; 0 is the base.
    pub fn set_rows(&self, rows: &[u64]) {
        let Some(choice) = &self.rows else { return };
        let mixed = || self.known.iter().filter(|known| known.is_mixed());
        let number = |own: u64| mixed().position(|known| known.info.generation == own);
        choice.set(rows.iter().map(|row| number(*row)).collect());
    }

    /// Puts the LoRA adapters in memory into the slots, numbered in the order of `known`.
    fn mix(&mut self, model: &mut Model) -> Result<(), String> {
        let mixed = self.known.iter().filter(|known| known.is_mixed());
        let keys: Vec<String> = mixed.map(Known::key).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.rows = None;
        self.rows = Some(self.set.mix(model, &keys).map_err(|e| e.to_string())?);
        Ok(())
    }
}

/// What came of a wish for an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    Held,
    Read,
    /// Requests at work hold every place.
    Later,
}
