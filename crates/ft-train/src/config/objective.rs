//! Section `[objective]`: what is minimized, supervised fine-tuning where nothing is said.

use std::ops::Deref;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::objectives::ObjectiveConfig;

/// An objective with its options; `kind` is `sft` where it is not given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ObjectiveSection(pub ObjectiveConfig);

impl Deref for ObjectiveSection {
    type Target = ObjectiveConfig;

    fn deref(&self) -> &ObjectiveConfig {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ObjectiveSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let default = || ObjectiveConfig::NAMES[0].into();
        table.entry("kind").or_insert_with(default);
        ObjectiveConfig::deserialize(table).map(Self).map_err(D::Error::custom)
    }
}
