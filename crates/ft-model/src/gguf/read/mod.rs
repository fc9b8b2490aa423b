//! A GGUF file as a checkpoint: its metadata as the keys of a `config.json`, its tensors under the names and in the order that
//! checkpoints have.
//!
//! ```text
//! metadata ─> keys (keys.rs, rope.rs) ─> ModelConfig
//! tensors  ─> entries (entries.rs): name, shape, what is undone while it is read (numbers.rs)
//! ```
//!
//! What is an architecture is in architectures.rs. A key that it has and that nothing here computes is refused.

mod architectures;
mod entries;
mod keys;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use ft_gguf::{File, Value};
use serde_json::Value as Json;

use crate::error::{Error, Result};

pub(crate) use entries::entries;
pub(crate) use keys::keys;

/// Opens a file that holds a whole model.
pub(crate) fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| match e {
        ft_gguf::Error::Io { path, source } => Error::Io { path, source },
        ft_gguf::Error::Format { path, why } => Error::Format { path, why },
    })?;
    let said = Said { file: &file };
    match said.value("general.type").and_then(Value::as_str) {
        None | Some("model") => {}
        Some(other) => {
            let why = format!("\"{other}\"; a file that holds a model is needed here");
            return Err(said.error("general.type", why));
        }
    }
    let parts = said.value("split.count").and_then(Value::as_u64).unwrap_or(1);
    if parts > 1 {
        let why = format!("one of {parts} parts; join them first (llama-gguf-split --merge)");
        return Err(said.error("split.count", why));
    }
    Ok(file)
}

/// What a file says, with errors that name it and the key.
struct Said<'a> {
    file: &'a File,
}

impl<'a> Said<'a> {
    fn error(&self, key: &str, why: String) -> Error {
        Error::Config {
            path: self.file.path().into(),
            key: key.into(),
            why,
        }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.file.metadata().get(key)
    }

    /// A whole number; where layers have one each, that of all of them.
    fn size(&self, key: &str) -> Result<Option<u64>> {
        let wrong = |why: &str| Err(self.error(key, why.into()));
        match self.value(key) {
            None => Ok(None),
            Some(Value::Ints(list)) => match list.as_slice() {
                [first, rest @ ..] if *first >= 0 && rest.iter().all(|other| other == first) => Ok(Some(*first as u64)),
                _ => wrong("layers differ in it, which no family here has"),
            },
            Some(value) => match value.as_u64() {
                Some(size) => Ok(Some(size)),
                None => wrong("a whole number is needed"),
            },
        }
    }

    fn needed(&self, key: &str) -> Result<u64> {
        let missing = || {
            self.error(
                key,
                "missing; convert the model again with llama.cpp's convert_hf_to_gguf.py".into(),
            )
        };
        self.size(key)?.ok_or_else(missing)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.error(key, "a number is needed".into())),
            },
        }
    }

    /// Whether block 0 has this tensor.
    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(&format!("blk.0.{tensor}")).is_some()
    }
}

/// A JSON number, null where it is none.
fn json(number: f64) -> Json {
    serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number)
}
