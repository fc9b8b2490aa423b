//! How a folder names its files and tensors.

use std::path::Path;

use super::{PREFIX, ROOT, WEIGHTS};
use crate::adapterhub;
use crate::error::{Error, Result};
use crate::methods::PeftMethod;

/// Whose layout a folder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Peft,
    AdapterHub { name: String },
}

impl Layout {
    /// The layout that the method's folders are written in.
    pub(super) fn of(method: &dyn PeftMethod) -> Self {
        match method.to_adapterhub() {
            None => Layout::Peft,
            Some((name, _)) => Layout::AdapterHub { name: name.into() },
        }
    }

    pub(super) fn weights(&self) -> &'static str {
        match self {
            Layout::Peft => WEIGHTS,
            Layout::AdapterHub { .. } => adapterhub::WEIGHTS,
        }
    }

    /// Name of the tensor that PEFT calls `leaf` at the module `path`.
    pub(super) fn tensor(&self, path: &str, leaf: &str) -> String {
        match self {
            Layout::Peft => format!("{PREFIX}{path}.{leaf}"),
            Layout::AdapterHub { name } => adapterhub::tensor_name(path, leaf, name),
        }
    }

    /// Name of the tensor `leaf` of a head's module: PEFT wraps the model once less where only virtual tokens train in it.
    pub(super) fn head_tensor(&self, method: &dyn PeftMethod, path: &str, leaf: &str) -> String {
        match self {
            Layout::Peft if method.virtual_tokens() > 0 => format!("{ROOT}{path}.{leaf}"),
            Layout::AdapterHub { .. } => format!("{path}.{leaf}"),
            _ => self.tensor(path, leaf),
        }
    }

    /// Fails where the folder holds its tensors as a pickle only.
    pub(super) fn refuse_pickle(&self, dir: &Path) -> Result<()> {
        if dir.join(self.weights()).exists() {
            return Ok(());
        }
        match self {
            Layout::Peft if dir.join("adapter_model.bin").exists() => {
                let why = "holds a pickle (adapter_model.bin); save it again with safe_serialization=True".into();
                Err(Error::Format { path: dir.into(), why })
            }
            Layout::AdapterHub { .. } if dir.join(adapterhub::PICKLE).exists() => Err(adapterhub::pickle(dir)),
            _ => Ok(()),
        }
    }
}
