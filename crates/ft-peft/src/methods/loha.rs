//! LoHa: low-rank Hadamard product (Hyeon-Woo et al. 2022, arXiv:2108.06098, eq. 4; LyCORIS, arXiv:2309.14859).
//!
//! ```text
//! y = x (W + ΔW)ᵀ      ΔW = α/r · (W1a W1b) ∘ (W2a W2b)      Wia [out, r]   Wib [r, in]
//! ```
//!
//! The product of two rank-r matrices element by element has rank r²: its factors have a column (row) for each pair of
//! theirs. Small ranks go that way, and ΔW is not built.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{alphas, checked, f32, projections, ranks, record};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::methods::lora::file::pattern_map;
use crate::methods::lora::low_rank::LowRank;
use crate::pass::Pass;
use crate::patterns::Patterns;
use crate::peft_config::{File, Target, number};
use crate::saved_activations::SavedActivations;
use crate::stream::kaiming;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of LoHa; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LohaConfig {
    /// Inner dimension of each of the two products (`r`).
    pub rank: usize,
    /// Numerator of the scale α/r (`alpha`).
    pub alpha: f64,
    /// `"all-linear"`, a list of path suffixes, or one regular expression over whole paths (`target_modules`).
    pub targets: Targets,
    /// Path suffixes to leave out (`exclude_modules`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Layer numbers, as a list or a range such as `"4..12"` (`layers_to_transform`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Rank of the paths whose end matches the key (`rank_pattern`).
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// Alpha of the paths whose end matches the key (`alpha_pattern`).
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
    /// Path suffixes of layers that train whole and are saved with the adapter (`modules_to_save`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

impl Default for LohaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            modules_to_save: Vec::new(),
        }
    }
}

impl LohaConfig {
    /// Rank at `path`, after `rank_pattern`.
    pub fn rank_at(&self, path: &str) -> usize {
        self.rank_pattern.get(path).copied().unwrap_or(self.rank)
    }

    /// Scale at `path`, after both patterns.
    pub fn scale_at(&self, path: &str) -> f64 {
        let alpha = self.alpha_pattern.get(path).copied().unwrap_or(self.alpha);
        alpha / self.rank_at(path) as f64
    }
}

impl PeftMethod for LohaConfig {
    fn check(&self) -> Result<()> {
        ranks(self.rank, &self.rank_pattern)?;
        alphas(self.alpha, &self.alpha_pattern)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        for spec in projections("LoHa", specs, &choice)? {
            spec.holds_rank(self.rank_at(&spec.path))?;
        }
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        2 * self.rank_at(&spec.path) * (spec.dims[0] + spec.dims[1])
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let ([out, inner], rank) = (spec.dims, self.rank_at(&spec.path));
        let squared = rank * rank;
        let thin = squared * (out + inner) <= out * inner;
        let per_token = if thin { squared } else { 0 };
        SavedActivations {
            copies: !thin,
            per_token,
            wide: per_token,
            fixed: if thin { squared * (out + inner) } else { 2 * out * inner },
            ..SavedActivations::input()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let ([out, inner], device) = (slot.weight.dims(), slot.device());
        let rank = self.rank_at(&module.path);
        let draw = |name: &str, shape| {
            let name = format!("{}.{name}", module.path);
            Param::from_tensor(kaiming(shape, seed, &name, &device))
        };
        slot.delta = Some(Delta::Loha(Loha {
            w1a: draw("hada_w1_a", [out, rank]),
            w1b: draw("hada_w1_b", [rank, inner]),
            w2a: draw("hada_w2_a", [out, rank]),
            w2b: Param::from_tensor(Tensor::zeros([rank, inner], &device)),
            scale: self.scale_at(&module.path),
        }));
    }
}

impl InTraining for LohaConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial (docs/guide): between LoRA and LoKr.
        1e-3
    }
}

impl PeftFile for LohaConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("LOHA", target, &self.modules_to_save);
        file["alpha"] = number(self.alpha);
        file["alpha_pattern"] = pattern_map(&self.alpha_pattern, |alpha| number(*alpha)).into();
        file["init_weights"] = true.into();
        file["module_dropout"] = json!(0.0);
        file["r"] = self.rank.into();
        file["rank_dropout"] = json!(0.0);
        file["rank_pattern"] = pattern_map(&self.rank_pattern, |rank| (*rank).into()).into();
        file["use_effective_conv2d"] = false.into();
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&["rank_dropout", "module_dropout"])?;
    let config = LohaConfig {
        rank: file.read("r")?.unwrap_or(8),
        alpha: file.read("alpha")?.unwrap_or(8.0),
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        rank_pattern: file.read("rank_pattern")?.unwrap_or_default(),
        alpha_pattern: file.read("alpha_pattern")?.unwrap_or_default(),
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Loha)
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Loha {
    /// `[out, r]`.
    pub w1a: Param<Tensor<2>>,
    /// `[r, in]`.
    pub w1b: Param<Tensor<2>>,
    /// `[out, r]`.
    pub w2a: Param<Tensor<2>>,
    /// `[r, in]`.
    pub w2b: Param<Tensor<2>>,
    /// α/r.
    #[module(skip)]
    pub scale: f64,
}

impl Loha {
    /// ΔW `[out, in]`.
    fn dense(&self) -> Tensor<2> {
        let one = self.w1a.val().matmul(self.w1b.val());
        let two = self.w2a.val().matmul(self.w2b.val());
        (one * two).mul_scalar(self.scale)
    }

    /// B `[out, r²]` and A `[r², in]` with `ΔW = s B A`.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let [out, rank] = self.w1a.dims();
        let inner = self.w1b.dims()[1];
        // [out, r, 1] ∘ [out, 1, r], [r, 1, in] ∘ [1, r, in]
        let b = self.w1a.val().unsqueeze_dim::<3>(2) * self.w2a.val().unsqueeze_dim(1);
        let a = self.w1b.val().unsqueeze_dim::<3>(1) * self.w2b.val().unsqueeze_dim(0);
        (b.reshape([out, rank * rank]), a.reshape([rank * rank, inner]))
    }

    /// Whether two products with the factors are less work than one with ΔW.
    fn is_thin(&self) -> bool {
        let ([out, rank], inner) = (self.w1a.dims(), self.w1b.dims()[1]);
        rank * rank * (out + inner) <= out * inner
    }
}

impl WeightDelta for Loha {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        if self.is_thin() {
            let (b, a) = self.factors();
            let product = LowRank {
                a,
                b,
                bias: None,
                scale: self.scale,
                dropout: 0.0,
                salt: 0,
            };
            return product.forward(x, base, pass);
        }
        let y = base.forward_for(x.clone(), pass.output);
        let change = ft_kernels::linear(f32(x), self.dense());
        let dtype = y.dtype();
        y + change.cast(dtype)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        (f32(weight) + self.dense().detach(), bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("hada_w1_a", ParamMut::Matrix(&mut self.w1a)),
            ("hada_w1_b", ParamMut::Matrix(&mut self.w1b)),
            ("hada_w2_a", ParamMut::Matrix(&mut self.w2a)),
            ("hada_w2_b", ParamMut::Matrix(&mut self.w2b)),
        ]
    }
}
