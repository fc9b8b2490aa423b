//! VeRA: vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv:2310.11454, eq. 2).
//!
//! ```text
//! y = x Wᵀ + b ∘ ((d ∘ (drop(x) Aᵀ)) Bᵀ)      A [r, in]   B [out, r]   d [r]   b [out]
//! ```
//!
//! A and B are random, never trained, and shared by all modules: each takes the first `in` columns of A and the first `out`
//! rows of B. They follow from a seed, with the numbers that PyTorch draws from it.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{self, checked, f32, invalid, projections, record, scaled, size};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::pass::Pass;
use crate::peft_config::{File, Target, number};
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

pub(super) mod twister;

/// Options of VeRA; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VeraConfig {
    /// Inner dimension of the shared projections (`r`). It may exceed the matrices: only d grows with it.
    pub rank: usize,
    /// Share of the adapter's input that is dropped in training (`vera_dropout`).
    pub dropout: f64,
    /// Starting value of d (`d_initial`).
    pub d_initial: f64,
    /// Seed of A and B (`projection_prng_key`).
    pub projection_seed: u32,
    /// Save A and B with the adapter (`save_projection`); without them a reader draws them again.
    pub save_projection: bool,
    /// `"all-linear"`, a list of path suffixes, or one regular expression over whole paths (`target_modules`).
    pub targets: Targets,
    /// Path suffixes to leave out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"` (`layers_to_transform`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Path suffixes of layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            rank: 256,
            dropout: 0.0,
            d_initial: 0.1,
            projection_seed: 0,
            save_projection: true,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl PeftMethod for VeraConfig {
    fn check(&self) -> Result<()> {
        size("rank", self.rank)?;
        common::dropout("dropout", self.dropout)?;
        if !self.d_initial.is_finite() || self.d_initial == 0.0 {
            return Err(invalid(
                "d_initial",
                "must be a number other than 0: with both vectors at 0 nothing learns",
            ));
        }
        Ok(())
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        projections("VeRA", specs, &choice)?;
        Ok(choice)
    }

    fn size_in_file(&self) -> Option<(&'static str, usize, &'static str)> {
        Some(("r", self.rank, "vera_lambda_d"))
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        spec.dims[0] + self.rank
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        SavedActivations {
            per_token: self.rank + spec.dims[0],
            wide: self.rank + spec.dims[0],
            ..SavedActivations::default()
        }
    }

    fn fill_all(&self, modules: &mut [TargetModule<'_>], _seed: u64) {
        let largest = modules.iter().fold([0, 0], |[out, inner], module| match &module.slot {
            ModuleSlot::Projection(slot) => {
                let [rows, cols] = slot.weight.dims();
                [rows.max(out), cols.max(inner)]
            }
            _ => [out, inner],
        });
        let mut shared: Option<[Tensor<2>; 2]> = None;
        for module in modules {
            let ModuleSlot::Projection(slot) = &mut module.slot else {
                unreachable!("refused by `choose`")
            };
            let device = slot.device();
            let [a, b] = shared
                .get_or_insert_with(|| twister::projections(self.rank, largest, self.projection_seed, &device))
                .clone();
            let out = slot.weight.dims()[0];
            slot.delta = Some(Delta::Vera(Vera {
                d: Param::from_tensor(Tensor::full([self.rank], self.d_initial, &device)),
                b: Param::from_tensor(Tensor::zeros([out], &device)),
                shared_a: a,
                shared_b: b,
                saved: self.save_projection,
                dropout: self.dropout,
                salt: ft_seed::salt(&module.path),
            }));
        }
    }
}

impl InTraining for VeraConfig {
    fn learning_rate(&self) -> f64 {
        // The paper's recipe for Llama.
        4e-3
    }
}

impl PeftFile for VeraConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("VERA", target, &self.modules_to_save);
        file["bias"] = "none".into();
        file["d_initial"] = json!(self.d_initial);
        file["fan_in_fan_out"] = target.fan_in_fan_out.into();
        file["init_weights"] = true.into();
        file["projection_prng_key"] = self.projection_seed.into();
        file["r"] = self.rank.into();
        file["save_projection"] = self.save_projection.into();
        file["vera_dropout"] = number(self.dropout);
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse_bias()?;
    let config = VeraConfig {
        rank: file.read("r")?.unwrap_or(256),
        dropout: file.read("vera_dropout")?.unwrap_or(0.0),
        d_initial: file.read("d_initial")?.unwrap_or(0.1),
        projection_seed: file.read("projection_prng_key")?.unwrap_or(0),
        save_projection: file.read("save_projection")?.unwrap_or(true),
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Vera)
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Vera {
    /// `[r]`.
    pub d: Param<Tensor<1>>,
    /// `[out]`.
    pub b: Param<Tensor<1>>,
    /// A for the widest module, `[r, max in]`; all modules hold the same tensor.
    pub shared_a: Tensor<2>,
    /// B for the tallest module, `[max out, r]`.
    pub shared_b: Tensor<2>,
    /// Whether the file holds A and B.
    #[module(skip)]
    pub saved: bool,
    /// Share of the input that is dropped.
    #[module(skip)]
    pub dropout: f64,
    /// Tells this module's dropout masks from those of other modules.
    #[module(skip)]
    pub salt: u64,
}

impl Vera {
    /// A `[r, in]` and B `[out, r]` of this module.
    fn projections(&self, [out, inner]: [usize; 2]) -> [Tensor<2>; 2] {
        [
            self.shared_a.clone().slice(s![.., 0..inner]),
            self.shared_b.clone().slice(s![0..out, ..]),
        ]
    }
}

impl WeightDelta for Vera {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let [a, b] = self.projections(base.weight.dims());
        let y = base.forward_for(x.clone(), pass.output);
        let x = pass.dropped(f32(x), self.dropout, self.salt);
        let down = scaled(ft_kernels::linear(x, a), self.d.val());
        let up = scaled(ft_kernels::linear(down, b), self.b.val());
        let dtype = y.dtype();
        y + up.cast(dtype)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let [a, b] = self.projections(weight.dims());
        let left = b * self.b.val().detach().unsqueeze_dim(1);
        let right = a * self.d.val().detach().unsqueeze_dim(1);
        (f32(weight) + left.matmul(right).detach(), bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("vera_lambda_b", ParamMut::Vector(&mut self.b)),
            ("vera_lambda_d", ParamMut::Vector(&mut self.d)),
        ]
    }

    fn shared(&mut self) -> Vec<(&'static str, &mut Tensor<2>)> {
        if !self.saved {
            return Vec::new();
        }
        vec![("vera_A", &mut self.shared_a), ("vera_B", &mut self.shared_b)]
    }
}
