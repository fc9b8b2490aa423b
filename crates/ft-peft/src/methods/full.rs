//! Full fine-tuning, of the whole model or of a part chosen by path or layer: the checkpoint's own tensors train.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{InTraining, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::targets::{Layers, Selector, Targets};

/// Options of full fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FullConfig {
    /// `"all"`, `"all-linear"`, a list of path suffixes, or one regular expression over whole paths.
    pub targets: Targets,
    /// Path suffixes to leave out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
}

impl Default for FullConfig {
    fn default() -> Self {
        Self {
            targets: Targets::all(),
            exclude: Vec::new(),
            layers: None,
        }
    }
}

impl PeftMethod for FullConfig {
    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        Ok(Choice {
            whole: selector.select(specs)?,
            ..Choice::default()
        })
    }
}

impl InTraining for FullConfig {
    fn learning_rate(&self) -> f64 {
        // What Alpaca took for 7B parameters, and most recipes since.
        2e-5
    }
}

impl PeftFile for FullConfig {}
