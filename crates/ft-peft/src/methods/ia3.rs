//! IA3: infused adapter by inhibiting and amplifying inner activations (Liu et al. 2022, arXiv:2205.05638, section 3.3).
//!
//! ```text
//! y = (x Wᵀ + b) ∘ l        l [out]     keys, values
//! y = (x ∘ l) Wᵀ + b        l [in]      feed-forward modules: the input of the down projection
//! ```

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{checked, f32, projections, record, scaled};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::pass::Pass;
use crate::peft_config::{File, Target};
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets, has_suffix};

/// Options of IA3; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3Config {
    /// Modules to scale: `"all-linear"`, a list of path suffixes, or one regular expression over whole paths
    /// (`target_modules`). By default the keys, the values and the last projection of the feed-forward block.
    pub targets: Targets,
    /// Those of the targets whose input is scaled instead of their output (`feedforward_modules`).
    pub feedforward: Targets,
    /// Path suffixes to leave out (`exclude_modules`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Path suffixes of layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            // Llama's names, then GPT-2's, which fuses the queries with the keys and values.
            targets: Targets::suffixes(&["k_proj", "v_proj", "down_proj", "attn.c_attn", "mlp.c_proj"]),
            feedforward: Targets::suffixes(&["down_proj", "mlp.c_proj"]),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl Ia3Config {
    fn is_feedforward(&self, path: &str) -> bool {
        self.feedforward.names(path).unwrap_or(false)
    }

    /// Whether what `entry` stands for among `paths` is scaled at the input.
    fn is_feedforward_entry(&self, entry: &str, paths: &[String]) -> bool {
        let mut named = paths.iter().filter(|path| has_suffix(path, entry));
        named.all(|path| self.is_feedforward(path))
    }
}

impl PeftMethod for Ia3Config {
    fn check(&self) -> Result<()> {
        self.feedforward.names("").map(drop)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        projections("IA3", specs, &choice)?;
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        spec.dims[usize::from(self.is_feedforward(&spec.path))]
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        match self.is_feedforward(&spec.path) {
            true => SavedActivations {
                passing: 2 * spec.dims[1],
                ..SavedActivations::input()
            },
            // Its own output before the scaling.
            false => SavedActivations {
                per_token: spec.dims[0],
                ..SavedActivations::default()
            },
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, _seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let ([rows, cols], device) = (slot.weight.dims(), slot.device());
        let feedforward = self.is_feedforward(&module.path);
        let shape = if feedforward { [1, cols] } else { [rows, 1] };
        slot.delta = Some(Delta::Ia3(Ia3 {
            l: Param::from_tensor(Tensor::ones(shape, &device)),
            feedforward,
        }));
    }
}

impl InTraining for Ia3Config {
    fn learning_rate(&self) -> f64 {
        // The paper's recipe; PEFT's method comparison found 2e-3 to 5e-3 alike.
        3e-3
    }
}

impl PeftFile for Ia3Config {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("IA3", target, &self.modules_to_save);
        // An entry stands for every path that ends in it, and is a feed-forward module or is not: where both kinds share
        // a last component, whole paths tell them apart.
        let mut under = Vec::new();
        for entry in target.modules {
            let paths = target.paths.iter().filter(|path| has_suffix(path, entry));
            under.push(paths.map(|path| self.is_feedforward(path)).collect::<Vec<_>>());
        }
        let mixed = under
            .iter()
            .any(|kinds| kinds.contains(&true) && kinds.contains(&false));
        let modules = if mixed { target.paths } else { target.modules };
        let inputs: Vec<_> = modules
            .iter()
            .filter(|entry| self.is_feedforward_entry(entry, target.paths))
            .collect();
        file["target_modules"] = json!(modules);
        file["feedforward_modules"] = json!(inputs);
        file["fan_in_fan_out"] = target.fan_in_fan_out.into();
        file["init_ia3_weights"] = true.into();
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    let config = Ia3Config {
        targets: file.need("target_modules")?,
        feedforward: file.need("feedforward_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: None,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Ia3)
}

/// Scale of a projection's output or input.
#[derive(Module, Debug)]
pub struct Ia3 {
    /// `[out, 1]`, at a feed-forward module `[1, in]`.
    pub l: Param<Tensor<2>>,
    /// Whether the input is scaled.
    #[module(skip)]
    pub feedforward: bool,
}

impl WeightDelta for Ia3 {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let l = self.l.val().flatten(0, 1);
        if self.feedforward {
            base.forward_for(scaled(x, l), pass.output)
        } else {
            scaled(base.forward(x), l)
        }
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let l = self.l.val().detach();
        let bias = match bias {
            Some(bias) if !self.feedforward => Some(f32(bias) * l.clone().flatten(0, 1)),
            other => other,
        };
        (f32(weight) * l, bias)
    }

    fn is_additive(&self) -> bool {
        false
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![("ia3_l", ParamMut::Matrix(&mut self.l))]
    }
}
