//! OSF: orthogonal subspace fine-tuning (Nayak et al. 2025, arXiv:2504.07097, section 3): a matrix learns in its smaller singular
//! directions and keeps the larger ones, where what it already knows is.
//!
//! ```text
//! W = U₁ S₁ V₁ᵀ + U₂ S₂ V₂ᵀ        the first effective_rank singular triplets, and the rest
//! y = x (U₁ S₁ V₁ᵀ + U S Vᵀ)ᵀ + b      U, S, V train, from U₂, S₂, V₂ on
//! U's gradient is (I - U₁ U₁ᵀ) G, V's is (I - V₁ V₁ᵀ) G
//! ```
//!
//! As in PEFT, gradients are projected and values are not: an optimizer that scales each number by itself, as AdamW does, moves U and V a
//! little into the space of U₁ and V₁. The file holds U, S and V alone; who reads it decomposes the base again, so that an adapter belongs to the
//! base in the storage that it was trained over.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::common::{checked, invalid, projections, record};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::common::f32;
use crate::methods::lora::BiasMode;
use crate::methods::lora::file::pattern_map;
use crate::methods::lora::low_rank::LowRank;
use crate::pass::Pass;
use crate::patterns::Patterns;
use crate::peft_config::{File, Target};
use crate::saved_activations::SavedActivations;
use crate::slots::constant;
use crate::svd::{Svd, is_zero, svd};
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of OSF; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OsfConfig {
    /// Singular directions that stay as they are (`effective_rank`): a number, or a share of the smaller side of the matrix, such as 0.75. Half of
    /// it by default. Everything behind trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_rank: Option<Kept>,
    /// The same for paths in which the key, a regular expression, is found anywhere (`rank_pattern`).
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<Kept>,
    /// `"all-linear"`, a list of path suffixes, or one regular expression over whole paths (`target_modules`).
    pub targets: Targets,
    /// Path suffixes to leave out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Path suffixes of layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

impl Default for OsfConfig {
    fn default() -> Self {
        Self {
            effective_rank: None,
            rank_pattern: Patterns::default(),
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

/// How many singular directions stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Kept {
    /// So many.
    Number(usize),
    /// This share of all, above 0 and at most 1.
    Share(f64),
}

impl Kept {
    fn check(self, key: &str) -> Result<()> {
        match self {
            Kept::Number(0) => Err(invalid(key, "must be at least 1, or a share above 0")),
            Kept::Share(share) if !(share > 0.0 && share <= 1.0) => Err(invalid(
                key,
                format!("must be a whole number, or a share above 0 and at most 1; got {share}"),
            )),
            _ => Ok(()),
        }
    }

    /// Of so many.
    fn of(self, all: usize) -> usize {
        match self {
            Kept::Number(number) => number.min(all),
            Kept::Share(share) => (all as f64 * share) as usize,
        }
    }
}

impl OsfConfig {
    /// Singular directions of the matrix `[out, in]` at `path` that train.
    fn trained(&self, path: &str, [out, inner]: [usize; 2]) -> usize {
        let all = out.min(inner);
        let kept = self.rank_pattern.found(path).copied().or(self.effective_rank);
        all - kept.map_or(all / 2, |kept| kept.of(all))
    }

    fn fits(&self, ModuleSpec { path, dims, .. }: &ModuleSpec) -> Result<()> {
        let (all, trained) = (dims[0].min(dims[1]), self.trained(path, *dims));
        let why = match trained {
            0 => format!("keeps all {all} singular directions of {path}, so that nothing trains there"),
            _ if trained == all => format!("keeps none of the {all} singular directions of {path}"),
            _ => return Ok(()),
        };
        Err(invalid("effective_rank", why))
    }
}

impl PeftMethod for OsfConfig {
    fn check(&self) -> Result<()> {
        self.effective_rank
            .map_or(Ok(()), |kept| kept.check("effective_rank"))?;
        let mut each = self.rank_pattern.0.iter();
        each.try_for_each(|(key, kept)| kept.check(&format!("rank_pattern.\"{key}\"")))
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        projections("OSF", specs, &choice)?
            .into_iter()
            .try_for_each(|spec| self.fits(spec))?;
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        self.trained(&spec.path, spec.dims) * (spec.dims[0] + 1 + spec.dims[1])
    }

    fn shapes_at(&self, spec: &ModuleSpec) -> Vec<Vec<usize>> {
        let ([out, inner], trained) = (spec.dims, self.trained(&spec.path, spec.dims));
        vec![vec![trained], vec![out, trained], vec![trained, inner]]
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let ([out, inner], trained) = (spec.dims, self.trained(&spec.path, spec.dims));
        SavedActivations {
            per_token: 2 * trained,
            wide: 2 * trained,
            // Both factors of the change, and U before its columns are scaled.
            fixed: 2 * trained * (out + inner) + trained * out,
            ..SavedActivations::input()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, _seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let (dims, device) = (slot.weight.dims(), slot.device());
        let [out, inner] = dims;
        let all = out.min(inner);
        let kept = all - self.trained(&module.path, dims);
        let Svd { u, s, vt } = svd(slot.weight.dense());
        let matrix = |tensor: Tensor<2>| Tensor::<2>::from_data(tensor.into_data(), &device);
        let low = [
            matrix(u.clone().slice(s![.., kept..all])),
            matrix(vt.clone().slice(s![kept..all, ..])),
        ];
        let values = Tensor::<1>::from_data(s.slice(s![kept..all]).into_data(), &device);
        let [start_u, start_v] = low.clone();
        let [low_u, low_v] = low;
        slot.delta = Some(Delta::Osf(Osf {
            u: Param::from_tensor(low_u),
            s: Param::from_tensor(values.clone()),
            v: Param::from_tensor(low_v),
            start_u,
            start_s: values,
            start_v,
            high_u: (out > inner).then(|| matrix(u.slice(s![.., 0..kept]))),
            high_v: (out < inner).then(|| matrix(vt.slice(s![0..kept, ..]))),
        }));
    }
}

impl InTraining for OsfConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial on the embedded model, below the best there (1e-3).
        3e-4
    }
}

impl PeftFile for OsfConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<Value> {
        let mut file = record("OSF", target, &self.modules_to_save);
        file["effective_rank"] = json!(self.effective_rank);
        file["init_weights"] = true.into();
        file["rank_pattern"] = match self.rank_pattern.is_empty() {
            true => Value::Null,
            false => pattern_map(&self.rank_pattern, |kept| json!(kept)).into(),
        };
        file["target_svd_config"] = Value::Null;
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    let config = OsfConfig {
        effective_rank: file.read("effective_rank")?,
        rank_pattern: file.read("rank_pattern")?.unwrap_or_default(),
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Osf)
}

/// Adapter of a projection: k singular directions.
#[derive(Module, Debug)]
pub struct Osf {
    /// U `[out, k]`.
    pub u: Param<Tensor<2>>,
    /// S `[k]`.
    pub s: Param<Tensor<1>>,
    /// Vᵀ `[k, in]`.
    pub v: Param<Tensor<2>>,
    /// U₂ `[out, k]`.
    pub start_u: Tensor<2>,
    /// S₂ `[k]`.
    pub start_s: Tensor<1>,
    /// V₂ᵀ `[k, in]`.
    pub start_v: Tensor<2>,
    /// U₁ `[out, kept]` of a matrix that is taller than wide; of another one, U₂ has all that is orthogonal to it.
    pub high_u: Option<Tensor<2>>,
    /// V₁ᵀ `[kept, in]` of a matrix that is wider than tall.
    pub high_v: Option<Tensor<2>>,
}

/// `value`, whose gradient G arrives as `project(G)`, for an orthogonal projection.
fn guided(value: Tensor<2>, project: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    if !value.is_autodiff() {
        return value;
    }
    let projected = project(value.clone());
    constant(value) + (projected.clone() - constant(projected))
}

impl Osf {
    /// `[U S, -U₂ S₂]` and `[Vᵀ; V₂ᵀ]`, whose product is the change of W: `[out, 2k]` and `[2k, in]`.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let u = guided(self.u.val(), |u| match &self.high_u {
            Some(high) => u.clone() - high.clone().matmul(high.clone().transpose().matmul(u)),
            None => self.start_u.clone().matmul(self.start_u.clone().transpose().matmul(u)),
        });
        let v = guided(self.v.val(), |v| match &self.high_v {
            Some(high) => v.clone() - v.matmul(high.clone().transpose()).matmul(high.clone()),
            None => v.matmul(self.start_v.clone().transpose()).matmul(self.start_v.clone()),
        });
        let start = self.start_u.clone() * self.start_s.clone().unsqueeze();
        let b = Tensor::cat(vec![u * self.s.val().unsqueeze(), start.neg()], 1);
        (b, Tensor::cat(vec![v, self.start_v.clone()], 0))
    }
}

impl WeightDelta for Osf {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let (b, a) = self.factors();
        let product = LowRank {
            a,
            b,
            bias: None,
            scale: 1.0,
            dropout: 0.0,
            salt: 0,
        };
        product.forward(x, base, pass)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let weight = f32(weight);
        let mut own = self.clone();
        if is_zero(self.start_s.clone()) {
            // The matrix was not there yet when the adapter was put into its place.
            let Svd { u, s, vt } = svd(weight.clone());
            let (all, trained) = (s.dims()[0], self.s.dims()[0]);
            own.start_u = u.narrow(1, all - trained, trained);
            own.start_s = s.narrow(0, all - trained, trained);
            own.start_v = vt.narrow(0, all - trained, trained);
        }
        let (b, a) = own.factors();
        (weight + b.matmul(a).detach(), bias)
    }

    fn is_additive(&self) -> bool {
        false
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("osf_svd_params.S_low", ParamMut::Vector(&mut self.s)),
            ("osf_svd_params.U_low", ParamMut::Matrix(&mut self.u)),
            ("osf_svd_params.V_low", ParamMut::Matrix(&mut self.v)),
        ]
    }
}
