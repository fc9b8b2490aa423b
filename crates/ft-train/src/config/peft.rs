//! Section `[peft]`: a method with its options, or an adapter folder to go on from.

use std::path::{Path, PathBuf};

use ft_peft::PeftConfig;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// What trains: a method with its options, or the adapter in a folder.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "one in a whole run")]
pub enum PeftSection {
    /// Method and options come from the adapter in this folder, and training goes on from its values.
    From(FromAdapter),
    /// A new adapter (or full fine-tuning) with these options; `method` is `lora` where it is not given.
    Method(PeftConfig),
}

/// `peft.from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FromAdapter {
    /// Folder with `adapter_config.json`.
    pub from: PathBuf,
}

impl Default for PeftSection {
    fn default() -> Self {
        PeftSection::Method(PeftConfig::default())
    }
}

impl PeftSection {
    /// The folder to go on from.
    pub fn from(&self) -> Option<&Path> {
        match self {
            PeftSection::From(f) => Some(&f.from),
            PeftSection::Method(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for PeftSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        if table.contains_key("from") {
            if let Some(other) = table.keys().find(|k| *k != "from") {
                return Err(D::Error::custom(format!(
                    "`peft.{other}` and `peft.from` exclude each other: method and options come from the adapter"
                )));
            }
            return FromAdapter::deserialize(table)
                .map(PeftSection::From)
                .map_err(D::Error::custom);
        }
        if let PeftSection::Method(default) = PeftSection::default() {
            table.entry("method").or_insert_with(|| default.name().into());
        }
        PeftConfig::deserialize(table)
            .map(PeftSection::Method)
            .map_err(D::Error::custom)
    }
}
