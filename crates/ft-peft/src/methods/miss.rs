//! MiSS: matrix shard sharing (Kang and Yin 2024, arXiv:2409.15371): one small matrix B for all shards of a projection's input.
//!
//! ```text
//! y = x Wᵀ + b + (Σᵢ xᵢ) B         x cut into runs xᵢ of r numbers   B [r, out]
//! "mini":  B [r, mini_r], repeated along the output
//! "bat":   W'ₐᵢ = Wₐᵢ + Wₐᵢ Bₐ + Bₐ    W cut into blocks Wₐᵢ [r, r]   B [out / r, r, r]
//! ```
//!
//! All start at zero. The change of the default and of `"mini"` has rank r, that of `"bat"` any rank, and depends on W: over codes, W is unpacked
//! in every forward pass.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::common::{self, checked, f32, invalid, projections, record, size};
use super::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::methods::lora::BiasMode;
use crate::pass::Pass;
use crate::peft_config::{File, Target, number};
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Layers, Selector, Targets};

/// Options of MiSS; the names in parentheses are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MissConfig {
    /// Length of a shard of the input (`r`).
    pub rank: usize,
    /// Share of the adapter's input that is dropped in training (`miss_dropout`); not with `"bat"`, whose change has no input of its own.
    pub dropout: f64,
    /// Columns of B with `"mini"`, a divisor of every target's output (`mini_r`).
    pub mini_r: usize,
    /// Which MiSS it is (`init_weights`).
    pub init_weights: MissVariant,
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

impl Default for MissConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            dropout: 0.0,
            mini_r: 1,
            init_weights: MissVariant::Default,
            targets: Targets::all_linear(),
            exclude: Vec::new(),
            layers: None,
            modules_to_save: Vec::new(),
        }
    }
}

/// The forms of MiSS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissVariant {
    /// B has a column for every output (PEFT's `true`).
    #[default]
    Default,
    /// B works on the blocks of W, too; r divides both sides of every target.
    Bat,
    /// B has `mini_r` columns.
    Mini,
}

impl MissConfig {
    /// Shape of B at a matrix `[out, in]`, of `"bat"` with its blocks one below the other.
    fn shape(&self, out: usize) -> [usize; 2] {
        match self.init_weights {
            MissVariant::Default => [self.rank, out],
            MissVariant::Bat => [out, self.rank],
            MissVariant::Mini => [self.rank, self.mini_r],
        }
    }

    fn fits(&self, ModuleSpec { path, dims, .. }: &ModuleSpec) -> Result<()> {
        let ([out, inner], rank) = (*dims, self.rank);
        if rank > inner {
            return Err(invalid(
                "rank",
                format!("{rank} is more than the {inner} inputs of {path}"),
            ));
        }
        match self.init_weights {
            MissVariant::Bat if !out.is_multiple_of(rank) || !inner.is_multiple_of(rank) => {
                let why = format!(
                    "{rank} does not divide both sides of {path}, which is [{out}, {inner}]; \"bat\" needs that"
                );
                Err(invalid("rank", why))
            }
            MissVariant::Mini if !out.is_multiple_of(self.mini_r) => {
                let why = format!("{} does not divide the {out} outputs of {path}", self.mini_r);
                Err(invalid("mini_r", why))
            }
            _ => Ok(()),
        }
    }
}

impl PeftMethod for MissConfig {
    fn check(&self) -> Result<()> {
        size("rank", self.rank)?;
        size("mini_r", self.mini_r)?;
        common::dropout("dropout", self.dropout)?;
        if self.dropout > 0.0 && self.init_weights == MissVariant::Bat {
            return Err(invalid(
                "dropout",
                "does nothing with init_weights = \"bat\"; leave it out",
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
        projections("MiSS", specs, &choice)?
            .into_iter()
            .try_for_each(|spec| self.fits(spec))?;
        Ok(choice)
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        self.shape(spec.dims[0]).iter().product()
    }

    fn shapes_at(&self, spec: &ModuleSpec) -> Vec<Vec<usize>> {
        vec![self.shape(spec.dims[0]).to_vec()]
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let [out, inner] = spec.dims;
        match self.init_weights {
            MissVariant::Bat => SavedActivations {
                copies: true,
                // W in blocks, and W'.
                fixed: 2 * out * inner,
                ..SavedActivations::input()
            },
            _ => SavedActivations {
                per_token: self.rank,
                wide: self.rank,
                passing: 2 * inner,
                ..SavedActivations::default()
            },
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, _seed: u64) {
        let ModuleSlot::Projection(slot) = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let (shape, device) = (self.shape(slot.weight.dims()[0]), slot.device());
        slot.delta = Some(Delta::Miss(Miss {
            block: Param::from_tensor(Tensor::zeros(shape, &device)),
            variant: self.init_weights,
            dropout: self.dropout,
            salt: ft_seed::salt(&module.path),
        }));
    }
}

impl InTraining for MissConfig {
    fn learning_rate(&self) -> f64 {
        // Found by trial on the embedded model.
        2e-3
    }
}

/// PEFT's name of B.
const BLOCK: &str = "miss_block";

impl PeftFile for MissConfig {
    fn unpack(&self, _: &str, name: &str, data: TensorData) -> TensorData {
        match (self.init_weights, data.shape().to_vec().as_slice()) {
            (MissVariant::Bat, &[blocks, rows, columns]) if name == BLOCK && rows == self.rank => {
                common::reshaped(data, vec![blocks * rows, columns])
            }
            _ => data,
        }
    }

    fn to_peft(&self, target: &Target<'_>) -> Option<Value> {
        let mut file = record("MISS", target, &self.modules_to_save);
        file["bias"] = "none".into();
        file["init_weights"] = match self.init_weights {
            MissVariant::Default => true.into(),
            MissVariant::Bat => "bat".into(),
            MissVariant::Mini => "mini".into(),
        };
        file["mini_r"] = self.mini_r.into();
        file["miss_dropout"] = number(self.dropout);
        file["r"] = self.rank.into();
        Some(file)
    }
}

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse_bias()?;
    let init_weights = match file.read::<Value>("init_weights")? {
        // What starts at random is stored like what starts at zero.
        None | Some(Value::Bool(_)) => MissVariant::Default,
        Some(value) if value == json!("bat") => MissVariant::Bat,
        Some(value) if value == json!("mini") => MissVariant::Mini,
        Some(value) => return Err(file.error("init_weights", &format!("{value} is not true, \"bat\" or \"mini\""))),
    };
    let config = MissConfig {
        rank: file.read("r")?.unwrap_or(64),
        // PEFT ignores it there.
        dropout: match init_weights {
            MissVariant::Bat => 0.0,
            _ => file.read("miss_dropout")?.unwrap_or(0.0),
        },
        mini_r: file.read("mini_r")?.unwrap_or(1),
        init_weights,
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
    };
    checked(config).map(PeftConfig::Miss)
}

/// Adapter of a projection.
#[derive(Module, Debug)]
pub struct Miss {
    /// B `[r, out]`, `[r, mini_r]`, or its blocks one below the other `[out, r]`.
    pub block: Param<Tensor<2>>,
    /// Which of them.
    #[module(skip)]
    pub variant: MissVariant,
    /// Share of the input that is dropped.
    #[module(skip)]
    pub dropout: f64,
    /// Tells this module's dropout masks from those of other modules.
    #[module(skip)]
    pub salt: u64,
}

impl Miss {
    /// The sum of all runs of r numbers in the rows of x: `[.., in]` to `[.., r]`.
    fn summed<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (rank, mut dims) = (self.block.dims()[0], x.dims());
        let inner = dims[D - 1];
        let rows = dims[..D - 1].iter().product::<usize>();
        let mut x = x.reshape([rows, inner]);
        let missing = inner.next_multiple_of(rank) - inner;
        if missing > 0 {
            let zeros = Tensor::zeros([rows, missing], (&x.device(), x.dtype()));
            x = Tensor::cat(vec![x, zeros], 1);
        }
        dims[D - 1] = rank;
        x.reshape([rows, (inner + missing) / rank, rank])
            .sum_dim(1)
            .reshape(dims)
    }

    /// `W'` of `"bat"` in f32, given W `[out, in]`.
    fn changed(&self, weight: Tensor<2>) -> Tensor<2> {
        let ([out, rank], inner) = (self.block.dims(), weight.dims()[1]);
        let (tall, wide) = (out / rank, inner / rank);
        let b = self.block.val().reshape([tall, rank, rank]);
        let blocks = f32(weight).reshape([tall, rank, wide, rank]).swap_dims(1, 2); // [tall, wide, r, r]
        let product = blocks.clone().reshape([tall, wide * rank, rank]).matmul(b.clone());
        let changed = blocks + product.reshape([tall, wide, rank, rank]) + b.unsqueeze_dim(1);
        changed.swap_dims(1, 2).reshape([out, inner])
    }
}

impl WeightDelta for Miss {
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
        if self.variant == MissVariant::Bat {
            let dtype = x.dtype();
            let y = ft_kernels::linear_for(f32(x), self.changed(base.weight.dense()), pass.output);
            return base.add_bias(y.cast(dtype));
        }
        let y = base.forward_for(x.clone(), pass.output);
        let x = pass.dropped(f32(x), self.dropout, self.salt);
        let (dims, dtype) = (y.dims(), y.dtype());
        let change = ft_kernels::linear(self.summed(x), self.block.val().transpose());
        let mut times = [1; D];
        times[D - 1] = dims[D - 1] / change.dims()[D - 1];
        y + change.repeat(&times).cast(dtype)
    }

    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        if self.variant == MissVariant::Bat {
            return (self.changed(weight).detach(), bias);
        }
        let ([out, inner], [rank, columns]) = (weight.dims(), self.block.dims());
        let shard = self.block.val().detach().transpose().repeat(&[out / columns, 1]); // [out, r]
        let change = shard.repeat(&[1, inner.div_ceil(rank)]).slice(s![.., 0..inner]);
        (f32(weight) + change, bias)
    }

    fn is_additive(&self) -> bool {
        self.variant != MissVariant::Bat
    }

    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![(BLOCK, ParamMut::Matrix(&mut self.block))]
    }

    fn export(&self) -> Vec<(&'static str, TensorData)> {
        let data = self.block.val().into_data();
        let data = match (self.variant, self.block.dims()) {
            (MissVariant::Bat, [out, rank]) => common::reshaped(data, vec![out / rank, rank, rank]),
            _ => data,
        };
        vec![(BLOCK, data)]
    }
}
