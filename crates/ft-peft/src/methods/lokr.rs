//! LoKr: low-rank Kronecker product (Edalati et al. 2022, arXiv:2212.10650, eq. 5; LyCORIS, arXiv:2309.14859).
//!
//! ```text
//! y = x (W + ΔW)ᵀ      ΔW = α/r · W1 ⊗ W2      W1 [o₁, i₁]   W2 [o₂, i₂]   o₁o₂ = out   i₁i₂ = in
//! ```
//!
//! Either factor is itself a product of rank r, `Wᵢa Wᵢb`, where that is smaller. ΔW is not built: x is seen as i₁ rows of
//! i₂ numbers, which W2 takes to o₂ each, and W1 mixes the rows.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{alphas, checked, f32, invalid, projections, ranks, record, size};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::methods::lora::file::pattern_map;
use crate::pass::Pass;
use crate::patterns::Patterns;
use crate::peft_config::{File, Target, number};
use crate::saved_activations::SavedActivations;
use crate::stream::kaiming;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of LoKr; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LokrConfig {
    /// Inner dimension of the factors that are products (`r`); factors at most twice as wide stay whole.
    pub rank: usize,
    /// Numerator of the scale α/r (`alpha`).
    pub alpha: f64,
    /// Let the small factor be a product, too (`decompose_both`).
    pub decompose_both: bool,
    /// Size of the small factor, where it divides the side of the matrix (`decompose_factor`); by default the divisor
    /// nearest the square root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<usize>,
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

impl Default for LokrConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            decompose_both: false,
            factor: None,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            modules_to_save: Vec::new(),
        }
    }
}

/// Sizes of the factors at one module.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// `[o₁, i₁]`.
    one: [usize; 2],
    /// `[o₂, i₂]`.
    two: [usize; 2],
    /// Rank of each factor that is a product.
    ranks: [Option<usize>; 2],
}

impl LokrConfig {
    /// Rank at `path`, after `rank_pattern`.
    pub fn rank_at(&self, path: &str) -> usize {
        self.rank_pattern.get(path).copied().unwrap_or(self.rank)
    }

    /// Scale at `path`, after both patterns.
    pub fn scale_at(&self, path: &str) -> f64 {
        let alpha = self.alpha_pattern.get(path).copied().unwrap_or(self.alpha);
        alpha / self.rank_at(path) as f64
    }

    fn sizes(&self, path: &str, [out, inner]: [usize; 2]) -> Sizes {
        let rank = self.rank_at(path);
        let ((o1, o2), (i1, i2)) = (factors(out, self.factor), factors(inner, self.factor));
        let is_product = |sides: [usize; 2]| 2 * rank < sides[0].max(sides[1]);
        let product = |yes: bool| yes.then_some(rank);
        Sizes {
            one: [o1, i1],
            two: [o2, i2],
            ranks: [
                product(self.decompose_both && is_product([o1, i1])),
                product(is_product([o2, i2])),
            ],
        }
    }
}

/// `n` as a product, as LyCORIS chooses it: `wanted` first where it divides n, else the pair with the smallest sum whose
/// smaller part is at most `wanted`.
fn factors(n: usize, wanted: Option<usize>) -> (usize, usize) {
    match wanted {
        Some(first) if n.is_multiple_of(first) => (first, n / first),
        _ => {
            let limit = wanted.unwrap_or(n);
            let small = (1..=n)
                .take_while(|m| m * m <= n)
                .filter(|m| n.is_multiple_of(*m) && *m <= limit);
            let small = small.last().unwrap_or(1);
            (small, n / small)
        }
    }
}

impl PeftMethod for LokrConfig {
    fn check(&self) -> Result<()> {
        ranks(self.rank, &self.rank_pattern)?;
        size("factor", self.factor.unwrap_or(1))?;
        alphas(self.alpha, &self.alpha_pattern)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        projections("LoKr", specs, &choice)?;
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        let sizes = self.sizes(&spec.path, spec.dims);
        let numbers = |[rows, cols]: [usize; 2], rank: Option<usize>| match rank {
            None => rows * cols,
            Some(rank) => rank * (rows + cols),
        };
        numbers(sizes.one, sizes.ranks[0]) + numbers(sizes.two, sizes.ranks[1])
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let Sizes { one, two, .. } = self.sizes(&spec.path, spec.dims);
        let product = one[1] * two[0]; // [rows, i₁, o₂]
        SavedActivations {
            copies: true,
            wide: product,
            passing: spec.dims[1],
            ..SavedActivations::input_and(product)
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let (sizes, device) = (self.sizes(&module.path, slot.weight.dims()), slot.device());
        let draw = |name: &str, shape| {
            let name = format!("{}.{name}", module.path);
            Param::from_tensor(kaiming(shape, seed, &name, &device))
        };
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, &device));
        let one = match sizes.ranks[0] {
            None => Factor::whole(zeros(sizes.one)),
            Some(rank) => Factor::product(zeros([sizes.one[0], rank]), draw("lokr_w1_b", [rank, sizes.one[1]])),
        };
        let two = match sizes.ranks[1] {
            None => Factor::whole(draw("lokr_w2", sizes.two)),
            Some(rank) => Factor::product(
                draw("lokr_w2_a", [sizes.two[0], rank]),
                draw("lokr_w2_b", [rank, sizes.two[1]]),
            ),
        };
        let scale = self.scale_at(&module.path);
        slot.delta = Some(Delta::Lokr(Lokr { one, two, scale }));
    }
}

impl InTraining for LokrConfig {
    fn learning_rate(&self) -> f64 {
        // PEFT's method comparison.
        3e-3
    }
}

impl PeftFile for LokrConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("LOKR", target, &self.modules_to_save);
        file["alpha"] = number(self.alpha);
        file["alpha_pattern"] = pattern_map(&self.alpha_pattern, |alpha| number(*alpha)).into();
        file["decompose_both"] = self.decompose_both.into();
        file["decompose_factor"] = self.factor.map_or(json!(-1), |factor| json!(factor));
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
    let factor = match file.read::<i64>("decompose_factor")? {
        None | Some(-1) => None,
        Some(factor) => {
            let factor = usize::try_from(factor);
            Some(factor.map_err(|_| invalid("factor", "decompose_factor must be -1 or at least 1"))?)
        }
    };
    let config = LokrConfig {
        rank: file.read("r")?.unwrap_or(8),
        alpha: file.read("alpha")?.unwrap_or(8.0),
        decompose_both: file.read("decompose_both")?.unwrap_or(false),
        factor,
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        rank_pattern: file.read("rank_pattern")?.unwrap_or_default(),
        alpha_pattern: file.read("alpha_pattern")?.unwrap_or_default(),
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Lokr)
}

/// One side of the Kronecker product.
#[derive(Module, Debug)]
pub struct Factor {
    /// The matrix, or `[rows, r]` of a product.
    pub a: Param<Tensor<2>>,
    /// `[r, cols]` of a product.
    pub b: Option<Param<Tensor<2>>>,
}

impl Factor {
    fn whole(matrix: Param<Tensor<2>>) -> Self {
        Self { a: matrix, b: None }
    }

    fn product(a: Param<Tensor<2>>, b: Param<Tensor<2>>) -> Self {
        Self { a, b: Some(b) }
    }

    /// `[rows, cols]`.
    fn dense(&self) -> Tensor<2> {
        match &self.b {
            None => self.a.val(),
            Some(b) => self.a.val().matmul(b.val()),
        }
    }

    fn params(&mut self, names: [&'static str; 3]) -> Vec<(&'static str, ParamMut<'_>)> {
        let [whole, a, b] = names;
        match &mut self.b {
            None => vec![(whole, ParamMut::Matrix(&mut self.a))],
            Some(right) => vec![(a, ParamMut::Matrix(&mut self.a)), (b, ParamMut::Matrix(right))],
        }
    }
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Lokr {
    /// W1 `[o₁, i₁]`.
    pub one: Factor,
    /// W2 `[o₂, i₂]`.
    pub two: Factor,
    /// α/r.
    #[module(skip)]
    pub scale: f64,
}

impl WeightDelta for Lokr {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let (one, two) = (self.one.dense().mul_scalar(self.scale), self.two.dense());
        let ([o1, i1], [o2, i2]) = (one.dims(), two.dims());
        let y = base.forward_for(x.clone(), pass.output);
        let (dims, dtype) = (y.dims(), y.dtype());
        let rows = dims[..D - 1].iter().product::<usize>();
        let inner = ft_kernels::linear(f32(x).reshape([rows, i1, i2]), two); // [rows, i₁, o₂]
        let outer = ft_kernels::linear(inner.swap_dims(1, 2), one); // [rows, o₂, o₁]
        debug_assert_eq!(outer.dims(), [rows, o2, o1]);
        y + outer.swap_dims(1, 2).reshape(dims).cast(dtype)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let (one, two) = (self.one.dense().detach(), self.two.dense().detach());
        let ([o1, i1], [o2, i2]) = (one.dims(), two.dims());
        let product = one.reshape([o1, 1, i1, 1]) * two.reshape([1, o2, 1, i2]);
        let delta = product.reshape([o1 * o2, i1 * i2]).mul_scalar(self.scale);
        (f32(weight) + delta, bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let mut params = self.one.params(["lokr_w1", "lokr_w1_a", "lokr_w1_b"]);
        params.extend(self.two.params(["lokr_w2", "lokr_w2_a", "lokr_w2_b"]));
        params
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_cut_as_lycoris_cuts_them() {
        for (n, wanted, pair) in [
            (256, None, (16, 16)),
            (128, None, (8, 16)),
            (127, None, (1, 127)),
            (128, Some(4), (4, 32)),
            (576, Some(7), (6, 96)),
        ] {
            assert_eq!(factors(n, wanted), pair, "{n}");
        }
    }
}
