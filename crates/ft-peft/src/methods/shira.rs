//! SHiRA: sparse high-rank adapters (Bhardwaj et al. 2024, arXiv:2406.13175, section 3), with random masks.
//!
//! ```text
//! y = x (W + S)ᵀ + b      S [out, in], zero but for r (out + in) entries, which train
//! ```
//!
//! As many numbers as LoRA of rank r, and a change of any rank. Which entries train is drawn once and lies in the file.

use std::collections::HashMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::common::{self, checked, f32, invalid, projections, record};
use super::vera::twister::Twister;
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::pass::Pass;
use crate::peft_config::{File, Target};
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of SHiRA; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShiraConfig {
    /// r (out + in) entries of a matrix train (`r`); it does not bound the rank of the change.
    pub rank: usize,
    /// Seed of which entries train, drawn as PyTorch draws them (`random_seed`); by default they follow from the run's seed and the
    /// module's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_seed: Option<u32>,
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

impl Default for ShiraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            random_seed: None,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl ShiraConfig {
    /// Entries that train in a matrix `[out, in]`.
    fn entries(&self, [out, inner]: [usize; 2]) -> usize {
        self.rank * (out + inner)
    }
}

impl PeftMethod for ShiraConfig {
    fn check(&self) -> Result<()> {
        common::size("rank", self.rank)
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let selector = Selector {
            targets: &self.targets,
            exclude: &self.exclude,
            layers: self.layers.as_ref(),
        };
        let choice = Choice::adapters(specs, selector, &self.modules_to_save, BiasMode::None)?;
        for ModuleSpec { path, dims, .. } in projections("SHiRA", specs, &choice)? {
            let [out, inner] = *dims;
            if out * inner > i32::MAX as usize {
                let why =
                    format!("{path} is [{out}, {inner}], too large for PEFT's positions of 32 bits; leave it out");
                return Err(invalid("targets", why));
            }
            if self.entries(*dims) > out * inner {
                let most = out * inner / (out + inner);
                let why = format!(
                    "{path} is [{out}, {inner}], of which rank {most} at most can train; got {}",
                    self.rank
                );
                return Err(invalid("rank", why));
            }
        }
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        self.entries(spec.dims)
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        SavedActivations {
            copies: true,
            // W + S.
            fixed: spec.dims[0] * spec.dims[1],
            ..SavedActivations::input()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let (dims, device) = (slot.weight.dims(), slot.device());
        let (count, all) = (self.entries(dims), dims[0] * dims[1]);
        let entries = match self.random_seed {
            Some(seed) => {
                let mut twister = Twister::new(seed);
                chosen(count, all, |left| twister.bits() as usize % left)
            }
            None => {
                let mut rng = ft_seed::stream(seed, &module.path);
                chosen(count, all, |left| rng.random_range(0..left))
            }
        };
        slot.delta = Some(Delta::Shira(Shira {
            values: Param::from_tensor(Tensor::zeros([count], &device)),
            entries: on(entries, &device),
            dims,
        }));
    }
}

/// `count` different numbers below `all`, ascending: the first of a permutation by Fisher and Yates, which draws with `below` and
/// is what PyTorch's `randperm` is (for fewer than 2³²/20 numbers).
fn chosen(count: usize, all: usize, mut below: impl FnMut(usize) -> usize) -> Vec<i32> {
    let mut moved: HashMap<usize, usize> = HashMap::new();
    let mut taken = Vec::with_capacity(count);
    for place in 0..count {
        let other = place + below(all - place);
        let here = moved.get(&place).copied().unwrap_or(place);
        taken.push(moved.insert(other, here).unwrap_or(other) as i32);
    }
    taken.sort_unstable();
    taken
}

fn on(entries: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = entries.len();
    Tensor::from_data(TensorData::new(entries, [count]), device)
}

impl InTraining for ShiraConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial on the embedded model, below the best there (1e-2).
        3e-3
    }
}

impl PeftFile for ShiraConfig {
    fn to_peft(&self, target: &Target<'_>) -> Option<serde_json::Value> {
        let mut file = record("SHIRA", target, &self.modules_to_save);
        file["fan_in_fan_out"] = target.fan_in_fan_out.into();
        file["init_weights"] = true.into();
        file["mask_type"] = "random".into();
        file["r"] = self.rank.into();
        file["random_seed"] = json!(self.random_seed);
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    if let Some(mask) = file.read::<String>("mask_type")?.filter(|mask| mask != "random") {
        return Err(file.error("mask_type", &format!("\"{mask}\" cannot be read yet; \"random\" can")));
    }
    let config = ShiraConfig {
        rank: file.read("r")?.unwrap_or(32),
        random_seed: file.read("random_seed")?,
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Shira)
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Shira {
    /// The entries of S that train, `[n]`.
    pub values: Param<Tensor<1>>,
    /// Where they are: `row · in + column`, ascending, `[n]`.
    pub entries: Tensor<1, Int>,
    /// `[out, in]`.
    #[module(skip)]
    pub dims: [usize; 2],
}

/// PEFT's name of where the entries are: `[2, n]`, rows and columns.
const INDICES: &str = "shira_indices";

impl Shira {
    /// `W + S`, f32, given W `[out, in]`.
    fn changed(&self, weight: Tensor<2>) -> Tensor<2> {
        let [out, inner] = self.dims;
        let flat = f32(weight).reshape([out * inner]);
        let values = self.values.val();
        let changed = flat.select_assign(0, self.entries.clone(), values, IndexingUpdateOp::Add);
        changed.reshape([out, inner])
    }

    /// The entries as PEFT's file holds them.
    fn indices(&self) -> TensorData {
        let (inner, count) = (self.dims[1] as i32, self.values.dims()[0]);
        let entries: Vec<i32> = self.entries.to_data().iter::<i32>().collect();
        let rows = entries.iter().map(|entry| entry / inner);
        let both = rows.chain(entries.iter().map(|entry| entry % inner));
        TensorData::new(both.collect::<Vec<i32>>(), [2, count])
    }
}

impl WeightDelta for Shira {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        let dtype = x.dtype();
        let y = ft_kernels::linear_for(f32(x), self.changed(base.weight.dense()), pass.output);
        base.add_bias(y.cast(dtype))
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.changed(weight).detach(), bias)
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![("shira_weight", ParamMut::Vector(&mut self.values))]
    }

    fn constants(&self) -> &'static [&'static str] {
        &[INDICES]
    }

    fn set_constant(&mut self, _: &str, data: TensorData) -> std::result::Result<(), String> {
        let ([out, inner], count) = (self.dims, self.values.dims()[0]);
        if data.shape().to_vec() != [2, count] {
            let found = data.shape().to_vec();
            return Err(format!("the model needs {:?}, the file has {found:?}", [2, count]));
        }
        let indices: Vec<f32> = data.iter::<f32>().collect();
        let (rows, columns) = indices.split_at(count);
        let below = |index: f32, size: usize| index >= 0.0 && index < size as f32 && index.fract() == 0.0;
        let mut entries = Vec::with_capacity(count);
        for (row, column) in rows.iter().zip(columns) {
            if !below(*row, out) || !below(*column, inner) {
                return Err(format!("({row}, {column}) is no entry of a matrix [{out}, {inner}]"));
            }
            entries.push(*row as i32 * inner as i32 + *column as i32);
        }
        self.entries = on(entries, &self.values.val().device());
        Ok(())
    }

    fn export(&self) -> Vec<(&'static str, TensorData)> {
        vec![
            ("shira_weight", self.values.val().into_data()),
            (INDICES, self.indices()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.randperm(1024, generator=torch.Generator().manual_seed(5))[:6]`, sorted.
    #[test]
    fn a_seed_chooses_what_pytorch_chooses() {
        let mut twister = Twister::new(5);
        let found = chosen(6, 1024, |left| twister.bits() as usize % left);
        assert_eq!(found, [61, 150, 451, 867, 1005, 1023]);
    }

    #[test]
    fn all_of_them_are_all_of_them() {
        let mut rng = ft_seed::stream(3, "x");
        let all = chosen(50, 50, |left| rng.random_range(0..left));
        assert!(all.iter().copied().eq(0..50));
    }

    #[test]
    fn positions_outside_of_the_matrix_are_refused() {
        let device = Device::flex();
        let mut shira = Shira {
            values: Param::from_tensor(Tensor::zeros([2], &device)),
            entries: on(vec![0, 5], &device),
            dims: [2, 3],
        };
        assert_eq!(shira.indices().iter::<i32>().collect::<Vec<_>>(), [0, 1, 0, 2]);
        let set = |shira: &mut Shira, values: Vec<f32>, shape: [usize; 2]| {
            shira.set_constant(INDICES, TensorData::new(values, shape))
        };
        assert_eq!(set(&mut shira, vec![1.0, 0.0, 2.0, 1.0], [2, 2]), Ok(()));
        assert_eq!(shira.indices().iter::<i32>().collect::<Vec<_>>(), [1, 0, 2, 1]);
        for (values, shape) in [
            (vec![2.0, 0.0, 0.0, 0.0], [2, 2]),
            (vec![0.0, 0.0, 3.0, 0.0], [2, 2]),
            (vec![-1.0, 0.0, 0.0, 0.0], [2, 2]),
            (vec![f32::NAN, 0.0, 0.0, 0.0], [2, 2]),
            (vec![0.0, 0.0], [2, 1]),
        ] {
            assert!(set(&mut shira, values.clone(), shape).is_err(), "{values:?}");
        }
    }
}
