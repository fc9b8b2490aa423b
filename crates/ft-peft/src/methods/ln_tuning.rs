//! LN tuning: only the normalizations train (Zhao et al. 2023, arXiv:2312.11420).
//!
//! ```text
//! y = g ∘ x / rms(x)                 g [hidden] trains            RMSNorm
//! y = g ∘ (x - mean) / std + b       g and b [hidden] train       LayerNorm
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{checked, invalid, record};
use super::{InTraining, PeftConfig, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::peft_config::{File, Target};
use crate::targets::{Kind, Layers, Selector, Targets, has_suffix};

/// Options of LN tuning; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LnTuningConfig {
    /// A list of path suffixes of normalizations, or one regular expression over whole paths (`target_modules`). By
    /// default those before each sub-layer and the last one.
    pub targets: Targets,
    /// Path suffixes to leave out (`exclude_modules`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Path suffixes of other layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

impl Default for LnTuningConfig {
    fn default() -> Self {
        // Llama's names, then GPT-2's.
        let names = [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
            "norm",
            "ln_1",
            "ln_2",
            "ln_f",
        ];
        Self {
            targets: Targets::suffixes(&names),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl LnTuningConfig {
    fn is_saved_whole(&self, path: &str) -> bool {
        self.modules_to_save.iter().any(|suffix| has_suffix(path, suffix))
    }
}

impl PeftMethod for LnTuningConfig {
    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let Choice { adapted, whole, .. } = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        let other = |spec: &&ModuleSpec| spec.kind != Kind::Norm && adapted.contains(&spec.path);
        if let Some(spec) = specs.iter().find(other) {
            let why = format!(
                "{} is no normalization, the only kind that LN tuning trains; name it in modules_to_save",
                spec.path
            );
            return Err(invalid("targets", why));
        }
        let trains = |spec: &&ModuleSpec| adapted.contains(&spec.path) || whole.contains(&spec.path);
        Ok(Choice {
            whole: specs.iter().filter(trains).map(|spec| spec.path.clone()).collect(),
            ..Choice::default()
        })
    }
}

impl InTraining for LnTuningConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial (docs/guide): as for BitFit.
        1e-3
    }
}

impl PeftFile for LnTuningConfig {
    fn targeted(&self, choice: &Choice) -> Vec<String> {
        let norms = choice.whole.iter().filter(|path| !self.is_saved_whole(path));
        norms.cloned().collect()
    }

    fn infix(&self, path: &str) -> &'static str {
        if self.is_saved_whole(path) {
            ""
        } else {
            "ln_tuning_layers."
        }
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        Some(record("LN_TUNING", target, &self.modules_to_save))
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    let config = LnTuningConfig {
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: None,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::LnTuning)
}
