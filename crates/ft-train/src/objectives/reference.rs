//! The model that a preference objective measures against.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Other;

/// Which model that is: `"base"`, or a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "PathBuf", into = "PathBuf")]
#[schemars(with = "PathBuf")]
pub enum Reference {
    /// The base model as it was loaded: the adapter off.
    #[default]
    Base,
    /// Another model.
    Folder(PathBuf),
}

impl Reference {
    /// How the base is spelled.
    pub const BASE: &str = "base";

    /// The model as a plan sees it.
    pub(super) fn other(&self) -> Other<'_> {
        match self {
            Reference::Base => Other::Base,
            Reference::Folder(folder) => Other::Model {
                key: "objective.reference",
                folder,
                adapter: None,
                quant: None,
            },
        }
    }
}

impl From<PathBuf> for Reference {
    fn from(path: PathBuf) -> Self {
        match path.to_str() {
            Some(Self::BASE) => Self::Base,
            _ => Self::Folder(path),
        }
    }
}

impl From<Reference> for PathBuf {
    fn from(reference: Reference) -> Self {
        match reference {
            Reference::Base => Reference::BASE.into(),
            Reference::Folder(path) => path,
        }
    }
}
