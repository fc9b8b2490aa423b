//! BitFit: only the biases train (Ben Zaken et al. 2022, arXiv:2106.10199).
//!
//! ```text
//! y = x Wᵀ + b        b trains, W does not
//! ```
//!
//! PEFT has no such method and no file for it: ours has its form, `peft_type` `BITFIT`, and each bias under its own name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{checked, invalid, record};
use super::{InTraining, PeftConfig, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::peft_config::{File, Target};
use crate::targets::{Layers, Selector, Targets};

/// Options of BitFit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BitfitConfig {
    /// Modules whose biases train: `"all"`, `"all-linear"`, a list of path suffixes, or one regular expression over whole
    /// paths. Modules without a bias are passed over.
    pub targets: Targets,
    /// Path suffixes to leave out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
}

impl Default for BitfitConfig {
    fn default() -> Self {
        Self {
            targets: Targets::all(),
            exclude: Vec::new(),
            layers: None,
        }
    }
}

impl PeftMethod for BitfitConfig {
    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let mut biases = selector.select(specs)?;
        let biased = |path: &String| specs.iter().any(|spec| spec.bias && spec.path == *path);
        biases.retain(biased);
        if biases.is_empty() {
            let why = format!(
                "{} names no layer with a bias: a model without biases has nothing that bitfit could train; ln_tuning \
                 is as small",
                self.targets
            );
            return Err(invalid("targets", why));
        }
        Ok(Choice {
            biases,
            ..Choice::default()
        })
    }
}

impl InTraining for BitfitConfig {
    fn learning_rate(&self) -> f64 {
        // The largest of the paper's grid.
        1e-3
    }
}

impl PeftFile for BitfitConfig {
    fn targeted(&self, choice: &Choice) -> Vec<String> {
        choice.biases.clone()
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        Some(record("BITFIT", target, &[]))
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    let config = BitfitConfig {
        targets: file.need("target_modules")?,
        ..BitfitConfig::default()
    };
    checked(config).map(PeftConfig::Bitfit)
}
