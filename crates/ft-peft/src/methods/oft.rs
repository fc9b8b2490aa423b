//! OFT: orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280), rotating the input block by block; with the truncated
//! series of OFTv2 (Qiu et al. 2025, arXiv:2506.19847, eq. 7).
//!
//! ```text
//! y = (x R) Wᵀ + b      R = diag(R₁, R₂, ..)   Q = V - Vᵀ skew, [block, block] each, V above the diagonal trains
//! Rᵢ = (I - Q)(I + Q)⁻¹                        exact
//! Rᵢ = I + 2Q + 2Q² + .. + Qᵏ⁻¹                k terms; PEFT's series has Q with the opposite sign
//! ```

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{at_least_one, checked, f32, invalid, projections, record};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::pass::Pass;
use crate::peft_config::{File, Target};
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of OFT; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OftConfig {
    /// Side of the rotated blocks, a divisor of every target's input (`oft_block_size`).
    pub block_size: usize,
    /// One rotation for all blocks of a module (`block_share`).
    pub block_share: bool,
    /// Rotations by the truncated series instead of an inverse: faster, and orthogonal only nearly
    /// (`use_cayley_neumann`).
    pub cayley_neumann: bool,
    /// Terms of that series (`num_cayley_neumann_terms`).
    pub neumann_terms: usize,
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
}

impl Default for OftConfig {
    fn default() -> Self {
        Self {
            block_size: 32,
            block_share: false,
            cayley_neumann: true,
            neumann_terms: 5,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl OftConfig {
    /// Rotations and numbers in each, for a module with this many inputs.
    fn shape(&self, inner: usize) -> [usize; 2] {
        let blocks = if self.block_share { 1 } else { inner / self.block_size };
        [blocks, self.block_size * (self.block_size - 1) / 2]
    }
}

impl PeftMethod for OftConfig {
    fn check(&self) -> Result<()> {
        if self.block_size < 2 {
            return Err(invalid(
                "block_size",
                "must be at least 2: a block of one number has no rotation",
            ));
        }
        if self.cayley_neumann && self.neumann_terms < 2 {
            return Err(invalid("neumann_terms", "must be at least 2: one term is no rotation"));
        }
        at_least_one("neumann_terms", self.neumann_terms)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        let odd = |spec: &&&ModuleSpec| !spec.dims[1].is_multiple_of(self.block_size);
        if let Some(spec) = projections("OFT", specs, &choice)?.iter().find(odd) {
            let why = format!(
                "{} does not divide the {} inputs of {}",
                self.block_size, spec.dims[1], spec.path
            );
            return Err(invalid("block_size", why));
        }
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        self.shape(spec.dims[1]).iter().product()
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let blocks = self.shape(spec.dims[1])[0];
        SavedActivations {
            // The rotations and the powers that the Neumann series is made of.
            fixed: 7 * blocks * self.block_size * self.block_size,
            copies: true,
            passing: 5 * spec.dims[1] / 2,
            ..SavedActivations::input()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, _seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let (shape, device) = (self.shape(slot.weight.dims()[1]), slot.device());
        slot.delta = Some(Delta::Oft(Oft {
            v: Param::from_tensor(Tensor::zeros(shape, &device)),
            layout: skew_layout(self.block_size, &device),
            block: self.block_size,
            terms: self.cayley_neumann.then_some(self.neumann_terms),
        }));
    }
}

impl InTraining for OftConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial (docs/guide).
        4e-4
    }
}

impl PeftFile for OftConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("OFT", target, &self.modules_to_save);
        file["bias"] = "none".into();
        file["block_share"] = self.block_share.into();
        file["coft"] = false.into();
        file["fan_in_fan_out"] = target.fan_in_fan_out.into();
        file["init_weights"] = true.into();
        file["module_dropout"] = json!(0.0);
        file["num_cayley_neumann_terms"] = self.neumann_terms.into();
        file["oft_block_size"] = self.block_size.into();
        file["r"] = 0.into();
        file["use_cayley_neumann"] = self.cayley_neumann.into();
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&["coft", "module_dropout"])?;
    file.refuse_bias()?;
    let block_size = file.read("oft_block_size")?.unwrap_or(0);
    if block_size == 0 {
        let why = "missing or 0: an adapter that gives the number of blocks (r) cannot be read yet";
        return Err(file.error("oft_block_size", why));
    }
    let config = OftConfig {
        block_size,
        block_share: file.read("block_share")?.unwrap_or(false),
        cayley_neumann: file.read("use_cayley_neumann")?.unwrap_or(false),
        neumann_terms: file.read("num_cayley_neumann_terms")?.unwrap_or(5),
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Oft)
}

/// For each number of a skew matrix, row by row, its index in `[v, -v, 0]`, v above the diagonal row by row.
fn skew_layout(block: usize, device: &Device) -> Tensor<1, Int> {
    let count = block * (block - 1) / 2;
    let above = |row: usize, col: usize| row * block - row * (row + 1) / 2 + col - row - 1;
    let index = |row: usize, col: usize| match row.cmp(&col) {
        std::cmp::Ordering::Less => above(row, col),
        std::cmp::Ordering::Greater => count + above(col, row),
        std::cmp::Ordering::Equal => 2 * count,
    };
    let indices: Vec<i32> = (0..block * block).map(|i| index(i / block, i % block) as i32).collect();
    Tensor::from_data(TensorData::new(indices, [block * block]), device)
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Oft {
    /// The numbers above the diagonals, row by row, `[rotations, block (block - 1) / 2]`.
    pub v: Param<Tensor<2>>,
    /// Where they go, `[block²]`.
    pub layout: Tensor<1, Int>,
    /// Side of a block.
    #[module(skip)]
    pub block: usize,
    /// Terms of the series; without, the rotation is exact.
    #[module(skip)]
    pub terms: Option<usize>,
}

impl Oft {
    /// R, `[rotations, block, block]`.
    fn rotations(&self) -> Tensor<3> {
        let v = self.v.val();
        let count = v.dims()[0];
        let zero = Tensor::zeros([count, 1], &v.device());
        let numbers = Tensor::cat(vec![v.clone(), v.neg(), zero], 1);
        let q = numbers
            .select(1, self.layout.clone())
            .reshape([count, self.block, self.block]);
        let eye = Tensor::<2>::eye(self.block, &q.device())
            .unsqueeze::<3>()
            .expand(q.dims());
        match self.terms {
            Some(terms) => series(eye, q, terms),
            None => (eye.clone() - q.clone()).matmul(inverse(eye, q)),
        }
    }

    /// Every run of `block` numbers in the rows of x multiplied by its rotation.
    fn rotate<const D: usize>(&self, x: Tensor<D>, rotations: Tensor<3>) -> Tensor<D> {
        let (dims, [count, block, _]) = (x.dims(), rotations.dims());
        let rows = dims.iter().product::<usize>() / (count * block);
        let runs = x.reshape([rows, count, block]).swap_dims(0, 1); // [rotations, rows, block]
        runs.matmul(rotations).swap_dims(0, 1).reshape(dims)
    }
}

/// `I + 2Q + .. + 2Qᵏ⁻² + Qᵏ⁻¹`; PEFT has the same for three terms as for four.
fn series(eye: Tensor<3>, q: Tensor<3>, terms: usize) -> Tensor<3> {
    let mut sum = eye + q.clone().mul_scalar(2.0);
    if terms < 3 {
        return sum;
    }
    let mut power = q.clone().matmul(q.clone());
    sum = sum + power.clone().mul_scalar(2.0);
    for _ in 3..terms - 1 {
        power = power.matmul(q.clone());
        sum = sum + power.clone().mul_scalar(2.0);
    }
    sum + power.matmul(q)
}

/// Newton's steps to the inverse: each doubles the digits, once the first have made up for a rough start.
const NEWTON_STEPS: usize = 24;

/// `(I + Q)⁻¹` for skew Q, whose singular values are all at least 1. The search is not recorded: one more of its steps from
/// the result has the value and the derivative of the inverse.
fn inverse(eye: Tensor<3>, q: Tensor<3>) -> Tensor<3> {
    let matrix = eye.clone() + q.clone();
    let fixed = matrix.clone().detach();
    // ‖I + Q‖² is at most 1 + ‖Q‖².
    let bound = q.detach().powi_scalar(2).sum_dim(1).sum_dim(2).add_scalar(1.0);
    let step = |inverse: Tensor<3>, matrix: Tensor<3>| {
        inverse
            .clone()
            .matmul(eye.clone().mul_scalar(2.0) - matrix.matmul(inverse))
    };
    let start = fixed.clone().swap_dims(1, 2) / bound;
    let found = (0..NEWTON_STEPS).fold(start, |inverse, _| step(inverse, fixed.clone()));
    step(found.detach(), matrix)
}

impl WeightDelta for Oft {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let dtype = x.dtype();
        base.forward_for(self.rotate(f32(x), self.rotations()).cast(dtype), pass.output)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let transposed = self.rotations().detach().swap_dims(1, 2);
        (self.rotate(f32(weight), transposed), bias)
    }

    fn is_additive(&self) -> bool {
        false
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![("oft_R.weight", ParamMut::Matrix(&mut self.v))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_rotation_is_orthogonal_even_when_it_is_large() {
        let device = Device::flex();
        let numbers: Vec<f32> = (0..30).map(|i| (i as f32 * 1.3).sin() * 3.0).collect();
        let oft = Oft {
            v: Param::from_tensor(Tensor::from_data(TensorData::new(numbers, [2, 15]), &device)),
            layout: skew_layout(6, &device),
            block: 6,
            terms: None,
        };
        let r = oft.rotations();
        let eye = Tensor::<2>::eye(6, &device).unsqueeze::<3>();
        let error = (r.clone().matmul(r.swap_dims(1, 2)) - eye)
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(error < 1e-5, "{error:e}");
    }
}
