//! P-tuning v2: virtual tokens in every layer, without an encoder (Liu et al. 2021, arXiv:2110.07602).
//!
//! The same function as prefix tuning without a projection, and written as such for PEFT:
//!
//! ```text
//! attention(Q, [Pk; K], [Pv; V])       Pk, Pv [n, kv_heads, head_dim], one pair per layer, never rotated
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::prefix_tuning::{InitWeights, PrefixTuningConfig, file};
use super::{InTraining, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::peft_config::Target;
use crate::target_module::TargetModule;

/// Options of P-tuning v2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PTuningV2Config {
    /// Virtual tokens before the text, in every layer.
    pub num_virtual_tokens: usize,
    /// What keys and values start as.
    pub init_weights: InitWeights,
}

impl Default for PTuningV2Config {
    fn default() -> Self {
        PrefixTuningConfig::default().into()
    }
}

impl From<PrefixTuningConfig> for PTuningV2Config {
    fn from(prefix: PrefixTuningConfig) -> Self {
        Self {
            num_virtual_tokens: prefix.num_virtual_tokens,
            init_weights: prefix.init_weights,
        }
    }
}

impl PTuningV2Config {
    fn prefix(&self) -> PrefixTuningConfig {
        PrefixTuningConfig {
            num_virtual_tokens: self.num_virtual_tokens,
            init_weights: self.init_weights,
            ..PrefixTuningConfig::default()
        }
    }
}

impl PeftMethod for PTuningV2Config {
    fn check(&self) -> Result<()> {
        self.prefix().check()
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        self.prefix().choose(specs)
    }

    fn virtual_tokens(&self) -> usize {
        self.num_virtual_tokens
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        self.prefix().parameters_at(spec)
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        self.prefix().fill(module, seed);
    }
}

impl InTraining for PTuningV2Config {
    fn learning_rate(&self) -> f64 {
        self.prefix().learning_rate()
    }
}

impl PeftFile for PTuningV2Config {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        Some(file(&self.prefix(), target))
    }
}
