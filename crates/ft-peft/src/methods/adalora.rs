//! AdaLoRA: adaptive budget allocation (Zhang et al. 2023, arXiv:2303.10512): LoRA in the form of a singular value
//! decomposition, whose least important triplets are taken away while it trains.
//!
//! ```text
//! y = x Wᵀ + s · drop(x) (A ∘ E)ᵀ Bᵀ      A [r, in]   E [r, 1]   B [out, r]   s = α/(r + 1e-5)
//! loss + w · mean over all A and B of ‖P Pᵀ - I‖      P = A or Bᵀ
//! ```
//!
//! r stays `init_r` in the scale for ever, as in PEFT. What is taken away, and when, stands in [`budget`].

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{self, at_least_one, f32, invalid, positive, projections, size};
use super::lora::low_rank::LowRank;
use super::{Base, Delta, InTraining, ParamMut, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::pass::Pass;
use crate::peft_config::Target;
use crate::saved_activations::SavedActivations;
use crate::stream::normal;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};
use crate::training_hook::TrainingHook;

pub mod budget;
pub(crate) mod file;

/// Options of AdaLoRA; the names in parentheses are PEFT's where they differ. Its `total_step` is the run's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaLoraConfig {
    /// Triplets of every module at the start.
    pub init_r: usize,
    /// Triplets per module in the end, on average over the modules.
    pub target_r: usize,
    /// Numerator of the scale (`lora_alpha`).
    pub alpha: f64,
    /// Share of the adapter's input that is dropped in training (`lora_dropout`).
    pub dropout: f64,
    /// First steps, in which nothing is taken away.
    pub tinit: usize,
    /// Last steps, in which what is left trains on.
    pub tfinal: usize,
    /// Steps between two decisions.
    #[serde(rename = "deltaT")]
    pub delta_t: usize,
    /// How much of the running mean of the importances a step keeps.
    pub beta1: f64,
    /// How much of the running mean of their uncertainty a step keeps.
    pub beta2: f64,
    /// Weight of the orthogonality penalty, w.
    pub orth_reg_weight: f64,
    /// `"all-linear"`, a list of path suffixes, or one regular expression over whole paths (`target_modules`).
    pub targets: Targets,
    /// Path suffixes to leave out (`exclude_modules`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"` (`layers_to_transform`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Path suffixes of layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
    /// Optimizer steps of the run; its plan knows them.
    #[serde(skip)]
    pub total_step: usize,
    /// Of an adapter whose budget has been spent: which triplets each module kept.
    #[serde(skip)]
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            alpha: 32.0,
            dropout: 0.0,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
            total_step: 0,
            rank_pattern: None,
        }
    }
}

impl AdaLoraConfig {
    /// Triplets that the file of a module holds.
    pub(crate) fn rank_at(&self, path: &str) -> usize {
        let kept = |kept: &Vec<bool>| kept.iter().filter(|kept| **kept).count();
        self.kept_at(path).map_or(self.init_r, kept)
    }

    /// s.
    pub(crate) fn scale(&self) -> f64 {
        self.alpha / (self.init_r as f64 + 1e-5)
    }

    /// What the module at `path` kept of a budget that has been spent.
    fn kept_at(&self, path: &str) -> Option<&Vec<bool>> {
        self.rank_pattern.as_ref()?.get(path)
    }
}

/// Whether nothing is left to train.
fn is_empty(kept: Option<&Vec<bool>>) -> bool {
    kept.is_some_and(|kept| !kept.contains(&true))
}

impl PeftMethod for AdaLoraConfig {
    fn check(&self) -> Result<()> {
        size("init_r", self.init_r)?;
        size("target_r", self.target_r)?;
        at_least_one("deltaT", self.delta_t)?;
        if self.target_r > self.init_r {
            let why = format!(
                "{} is above init_r ({}): triplets only go away",
                self.target_r, self.init_r
            );
            return Err(invalid("target_r", why));
        }
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(invalid(key, format!("must be above 0 and below 1, got {beta}")));
            }
        }
        if !self.orth_reg_weight.is_finite() || self.orth_reg_weight < 0.0 {
            return Err(invalid("orth_reg_weight", "must be a number of at least 0"));
        }
        let patterns = self.rank_pattern.iter().flatten();
        if let Some((path, kept)) = patterns.into_iter().find(|(_, kept)| kept.len() != self.init_r) {
            let why = format!("{path} has {} entries, init_r is {}", kept.len(), self.init_r);
            return Err(invalid("rank_pattern", why));
        }
        common::dropout("dropout", self.dropout)?;
        positive("alpha", self.alpha)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        for spec in projections("AdaLoRA", specs, &choice)? {
            spec.holds_rank(self.init_r)?;
        }
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        if is_empty(self.kept_at(&spec.path)) {
            return 0;
        }
        self.init_r * (spec.dims[0] + spec.dims[1] + 1)
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let [_, inner] = spec.dims;
        SavedActivations {
            input: true,
            per_token: self.init_r,
            wide: self.init_r,
            // A ∘ E.
            fixed: self.init_r * inner,
            passing: if self.dropout > 0.0 { inner } else { 0 },
            ..SavedActivations::default()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let ([out, inner], device) = (slot.weight.dims(), slot.device());
        let kept = self.kept_at(&module.path);
        let trains = !is_empty(kept);
        let draw = |name: &str, shape| {
            let name = format!("{}.{name}", module.path);
            Param::from_tensor(normal(shape, 0.02, seed, &name, &device)).set_require_grad(trains)
        };
        slot.delta = Some(Delta::AdaLora(AdaLora {
            a: draw("lora_A", [self.init_r, inner]),
            b: draw("lora_B", [out, self.init_r]),
            e: Param::from_tensor(Tensor::zeros([self.init_r, 1], &device)).set_require_grad(trains),
            kept: kept.cloned(),
            scale: self.scale(),
            dropout: self.dropout,
            salt: ft_seed::salt(&module.path),
        }));
    }
}

impl InTraining for AdaLoraConfig {
    fn learning_rate(&self) -> f64 {
        // The paper's own runs took 5e-4 to 2.2e-3 (appendix, table 6).
        1e-3
    }

    fn set_total_steps(&mut self, steps: usize) -> Result<()> {
        self.total_step = steps;
        // An adapter whose budget has been spent trains on as it is.
        if self.rank_pattern.is_some() || self.tinit + self.tfinal < steps {
            return Ok(());
        }
        let (tinit, tfinal) = (self.tinit, self.tfinal);
        let why =
            format!("{tinit} steps at the start and {tfinal} at the end (tfinal) leave none of {steps} between them");
        Err(invalid("tinit", why))
    }

    fn training_hook(&self) -> Option<Box<dyn TrainingHook>> {
        Some(Box::new(budget::Budget::new(self)))
    }

    /// The two running means of every number.
    fn numbers_beside(&self) -> usize {
        2
    }
}

impl PeftFile for AdaLoraConfig {
    /// Rows that the file has left out come back as zeros.
    fn unpack(&self, path: &str, name: &str, data: TensorData) -> TensorData {
        match self.kept_at(path) {
            Some(kept) => file::unpruned(name, data, kept),
            None => data,
        }
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        Some(file::write(self, target))
    }
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct AdaLora {
    /// `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub b: Param<Tensor<2>>,
    /// `[r, 1]`, 0 where a triplet is taken away.
    pub e: Param<Tensor<2>>,
    /// The triplets that the last decision left; `None` before the first.
    #[module(skip)]
    pub kept: Option<Vec<bool>>,
    /// s.
    #[module(skip)]
    pub scale: f64,
    /// Share of the input that is dropped.
    #[module(skip)]
    pub dropout: f64,
    /// Tells this module's dropout masks from those of other modules.
    #[module(skip)]
    pub salt: u64,
}

impl AdaLora {
    /// Which triplets the file holds. One that has been taken away and has grown again since the last decision is among them:
    /// a saved adapter computes what the present one does.
    fn saved(&self) -> Option<Vec<bool>> {
        let kept = self.kept.as_ref()?;
        let values = self.e.val().into_data().convert::<f32>();
        let values: Vec<f32> = values.try_into_vec().expect("just converted");
        Some(kept.iter().zip(values).map(|(kept, e)| *kept || e != 0.0).collect())
    }
}

impl WeightDelta for AdaLora {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let low_rank = LowRank {
            a: self.a.val() * self.e.val(),
            b: self.b.val(),
            bias: None,
            scale: self.scale,
            dropout: self.dropout,
            salt: self.salt,
        };
        low_rank.forward(x, base, pass)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let a = self.a.val().detach() * self.e.val().detach();
        let delta = self.b.val().detach().matmul(a);
        (f32(weight) + delta.mul_scalar(self.scale), bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("lora_A", ParamMut::Matrix(&mut self.a)),
            ("lora_B", ParamMut::Matrix(&mut self.b)),
            ("lora_E", ParamMut::Matrix(&mut self.e)),
        ]
    }

    fn kept(&self) -> Option<Vec<bool>> {
        self.saved()
    }

    fn export(&self) -> Vec<(&'static str, TensorData)> {
        let [a, b, e] = [&self.a, &self.b, &self.e].map(|param| param.val().detach());
        let parts = [("lora_A", a, 0), ("lora_B", b, 1), ("lora_E", e, 0)];
        let Some(saved) = self.saved() else {
            return parts.map(|(name, tensor, _)| (name, tensor.into_data())).into();
        };
        let rows = indices(&saved);
        let pruned = |tensor: Tensor<2>, axis: usize| {
            if rows.is_empty() {
                let mut shape = tensor.dims();
                shape[axis] = 0;
                return TensorData::new(Vec::<f32>::new(), shape);
            }
            let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &tensor.device());
            tensor.select(axis, rows).into_data()
        };
        parts.map(|(name, tensor, axis)| (name, pruned(tensor, axis))).into()
    }
}

/// The numbers of the entries that are set.
fn indices(set: &[bool]) -> Vec<i32> {
    let numbers = (0..).zip(set).filter(|(_, set)| **set);
    numbers.map(|(number, _)| number).collect()
}
