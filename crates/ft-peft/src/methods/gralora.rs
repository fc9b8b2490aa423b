//! GraLoRA: granular low-rank adaptation (Jung et al. 2025, arXiv:2505.20355, section 3): a low-rank adapter for each of k × k blocks of
//! a projection.
//!
//! ```text
//! zₙ = drop(xₙ) Aₙ                     x in k runs xₙ of in/k   Aₙ [in/k, r]   zₙ in k parts zₙⱼ of r/k
//! yⱼ = (x Wᵀ + b)ⱼ + s · [z₁ⱼ .. zₖⱼ] Bⱼ   y in k runs yⱼ of out/k   Bⱼ [r, out/k]   s = α/(r + hybrid_r)
//! ```
//!
//! As many numbers as LoRA of rank r, and a change of rank up to k r. With `hybrid_r`, a plain LoRA of that rank and the same scale is beside it.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{self, at_least_one, checked, f32, invalid, positive, projections, record, size};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::methods::lora::low_rank::LowRank;
use crate::pass::Pass;
use crate::peft_config::{File, Target, number};
use crate::saved_activations::SavedActivations;
use crate::stream::kaiming;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of GraLoRA; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GraloraConfig {
    /// Rank of the adapters of a column of blocks together (`r`), a multiple of k.
    pub rank: usize,
    /// Rank of the plain LoRA beside them; 0 is none.
    pub hybrid_r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of the adapter's input that is dropped in training (`gralora_dropout`).
    pub dropout: f64,
    /// k: each side of a matrix is cut into so many parts, which divide it.
    pub gralora_k: usize,
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

impl Default for GraloraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            hybrid_r: 0,
            alpha: 64.0,
            dropout: 0.0,
            gralora_k: 2,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl GraloraConfig {
    fn scale(&self) -> f64 {
        self.alpha / (self.rank + self.hybrid_r) as f64
    }
}

impl PeftMethod for GraloraConfig {
    fn check(&self) -> Result<()> {
        size("rank", self.rank)?;
        size("hybrid_r", self.hybrid_r.max(1))?;
        at_least_one("gralora_k", self.gralora_k)?;
        common::dropout("dropout", self.dropout)?;
        if !self.rank.is_multiple_of(self.gralora_k) {
            let why = format!("{} is no multiple of gralora_k = {}", self.rank, self.gralora_k);
            return Err(invalid("rank", why));
        }
        positive("alpha", self.alpha)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        let odd = |spec: &&&ModuleSpec| spec.dims.iter().any(|side| !side.is_multiple_of(self.gralora_k));
        if let Some(ModuleSpec { path, dims, .. }) = projections("GraLoRA", specs, &choice)?.iter().find(odd) {
            let why = format!(
                "{} does not divide both sides of {path}, which is {dims:?}",
                self.gralora_k
            );
            return Err(invalid("gralora_k", why));
        }
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        (self.rank + self.hybrid_r) * (spec.dims[0] + spec.dims[1])
    }

    fn shapes_at(&self, spec: &ModuleSpec) -> Vec<Vec<usize>> {
        let ([out, inner], k) = (spec.dims, self.gralora_k);
        let mut shapes = vec![vec![inner, self.rank], vec![k * self.rank, out / k]];
        if self.hybrid_r > 0 {
            shapes.extend([vec![self.hybrid_r, inner], vec![out, self.hybrid_r]]);
        }
        shapes
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        // z in the order of both products, and what is inside of the LoRA.
        let ([out, inner], products) = (spec.dims, (self.gralora_k + 1) * self.rank + 2 * self.hybrid_r);
        let dropped = self.dropout > 0.0;
        // The blocks and the LoRA beside them drop apart.
        let copies = match (dropped, self.hybrid_r) {
            (false, _) => 0,
            (true, 0) => inner,
            (true, _) => 2 * inner,
        };
        SavedActivations {
            // A dropped copy takes the place of the input.
            input: !dropped,
            copies: !dropped,
            per_token: products + copies,
            wide: products + copies,
            passing: 2 * (inner + out),
            ..SavedActivations::default()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let ([out, inner], device) = (slot.weight.dims(), slot.device());
        let (rank, k) = (self.rank, self.gralora_k);
        let draw = |shape, name: &str| kaiming(shape, seed, &format!("{}.{name}", module.path), &device);
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, &device));
        let a = draw([k * rank, inner / k], A);
        let a = a.reshape([k, rank, inner / k]).swap_dims(1, 2).reshape([inner, rank]);
        slot.delta = Some(Delta::Gralora(Gralora {
            a: Param::from_tensor(a),
            b: zeros([k * rank, out / k]),
            general: (self.hybrid_r > 0).then(|| General {
                a: Param::from_tensor(draw([self.hybrid_r, inner], "general")),
                b: zeros([out, self.hybrid_r]),
            }),
            parts: k,
            scale: self.scale(),
            dropout: self.dropout,
            salt: ft_seed::salt(&module.path),
        }));
    }
}

impl InTraining for GraloraConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial on the embedded model, below the best there (5e-3).
        1e-3
    }
}

/// PEFT's names of the tensors that have three axes in its file.
const A: &str = "gralora_A";
const B: &str = "gralora_B";

impl PeftFile for GraloraConfig {
    fn unpack(&self, _: &str, name: &str, data: TensorData) -> TensorData {
        match data.shape().to_vec().as_slice() {
            &[k, rows, columns] if [A, B].contains(&name) && k == self.gralora_k => {
                common::reshaped(data, vec![k * rows, columns])
            }
            _ => data,
        }
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("GRALORA", target, &self.modules_to_save);
        file["alpha"] = number(self.alpha);
        file["bias"] = "none".into();
        file["fan_in_fan_out"] = target.fan_in_fan_out.into();
        file["gralora_dropout"] = number(self.dropout);
        file["gralora_k"] = self.gralora_k.into();
        file["hybrid_r"] = self.hybrid_r.into();
        file["init_weights"] = true.into();
        file["r"] = self.rank.into();
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse_bias()?;
    let config = GraloraConfig {
        rank: file.read("r")?.unwrap_or(32),
        hybrid_r: file.read("hybrid_r")?.unwrap_or(0),
        alpha: file.read("alpha")?.unwrap_or(64.0),
        dropout: file.read("gralora_dropout")?.unwrap_or(0.0),
        gralora_k: file.read("gralora_k")?.unwrap_or(2),
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Gralora)
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Gralora {
    /// All Aₙ, one below the other, `[in, r]`.
    pub a: Param<Tensor<2>>,
    /// All Bⱼ, one below the other, `[k r, out/k]`.
    pub b: Param<Tensor<2>>,
    /// The plain LoRA beside them.
    pub general: Option<General>,
    /// k.
    #[module(skip)]
    pub parts: usize,
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

/// The LoRA beside the blocks.
#[derive(Module, Debug)]
pub struct General {
    /// `[hybrid_r, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, hybrid_r]`.
    pub b: Param<Tensor<2>>,
}

impl Gralora {
    /// `s · [z₁ⱼ .. zₖⱼ] Bⱼ` for rows x `[rows, in]`: `[rows, out]`.
    fn blocks(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, inner], [_, rank], [_, out]) = (x.dims(), self.a.dims(), self.b.dims());
        let k = self.parts;
        let a = self.a.val().reshape([k, inner / k, rank]);
        let b = self.b.val().reshape([k, rank, out]);
        let z = x.reshape([rows, k, inner / k]).swap_dims(0, 1).matmul(a); // [n, rows, r]
        let z = z.reshape([k, rows, k, rank / k]).permute([2, 1, 0, 3]); // [j, rows, n, r/k]
        let y = z.reshape([k, rows, rank]).matmul(b); // [j, rows, out/k]
        y.swap_dims(0, 1).reshape([rows, k * out]).mul_scalar(self.scale)
    }

    fn general(&self) -> Option<LowRank> {
        self.general.as_ref().map(|general| LowRank {
            a: general.a.val(),
            b: general.b.val(),
            bias: None,
            scale: self.scale,
            dropout: 0.0,
            salt: 0,
        })
    }
}

impl WeightDelta for Gralora {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let y = base.forward_for(x.clone(), pass.output);
        let (dims, dtype) = (y.dims(), y.dtype());
        let rows = dims[..D - 1].iter().product::<usize>();
        let inner = x.dims()[D - 1];
        let x = f32(x).reshape([rows, inner]);
        let dropped = |mask: u64| pass.dropped(x.clone(), self.dropout, self.salt ^ mask);
        let mut change = self.blocks(dropped(0));
        if let Some(general) = self.general() {
            change = change + general.branch(dropped(1));
        }
        y + change.reshape(dims).cast(dtype)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let [_, inner] = weight.dims();
        // Row i is what the i-th input alone makes.
        let change = self.blocks(Tensor::eye(inner, &weight.device())).detach().transpose();
        let change = match &self.general {
            None => change,
            Some(General { a, b }) => change + b.val().detach().matmul(a.val().detach()).mul_scalar(self.scale),
        };
        (f32(weight) + change, bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let mut params = vec![(A, ParamMut::Matrix(&mut self.a)), (B, ParamMut::Matrix(&mut self.b))];
        if let Some(General { a, b }) = &mut self.general {
            params.push(("gralora_A_general.weight", ParamMut::Matrix(a)));
            params.push(("gralora_B_general.weight", ParamMut::Matrix(b)));
        }
        params
    }

    fn export(&self) -> Vec<(&'static str, TensorData)> {
        let mut copy = self.clone();
        let file = |(name, param): (&'static str, ParamMut<'_>)| {
            let data = param.data();
            let data = match (name, data.shape().to_vec().as_slice()) {
                (A | B, &[rows, columns]) => common::reshaped(data, vec![self.parts, rows / self.parts, columns]),
                _ => data,
            };
            (name, data)
        };
        copy.params().into_iter().map(file).collect()
    }
}
