//! The optimizers: one file and one registry line each.

mod adafactor;
mod adamw;
mod adamw_8bit;
mod lion;
mod muon;
mod paged_adamw_32bit;
mod sgd;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::optim::{DynOptimizer, StateSource};
use burn::tensor::{DType, Device, Tensor};

pub use adafactor::{Adafactor, AdafactorConfig};
pub use adamw::{AdamW, AdamWConfig, AdamWState};
pub use adamw_8bit::{AdamW8bit, AdamW8bitConfig};
pub(crate) use adamw_8bit::{State8bit, no_coded};
pub use lion::{Lion, LionConfig};
pub use muon::{AdjustLr, Muon, MuonConfig};
pub use paged_adamw_32bit::{PagedAdamW, PagedAdamWConfig};
pub use sgd::{Sgd, SgdConfig};

use crate::error::{Problems, Result};
use crate::groups::Group;
use crate::registry::registry;
use crate::together::ManyRule;

registry! {
    /// Section `[optim]`: the update rule and its numbers.
    pub enum OptimConfig: Rule {
        /// Adam with decoupled weight decay, states in f32 (the default).
        "adamw" => AdamW(AdamWConfig),
        /// AdamW with states in 8 bits: a quarter of their memory.
        "adamw_8bit" => AdamW8bit(AdamW8bitConfig),
        /// AdamW whose states rest in host memory.
        "paged_adamw_32bit" => PagedAdamW(PagedAdamWConfig),
        /// Second moments by row and column: almost no state.
        "adafactor" => Adafactor(AdafactorConfig),
        /// The sign of a momentum: one state.
        "lion" => Lion(LionConfig),
        /// Stochastic gradient descent, with or without momentum.
        "sgd" => Sgd(SgdConfig),
        /// Orthogonalized momentum for hidden matrices, AdamW for everything else.
        "muon" => Muon(MuonConfig),
    }
}

impl OptimConfig {
    /// Base learning rate, which the schedule scales.
    pub fn lr(&self) -> f64 {
        self.entry().lr()
    }

    /// Largest norm of all gradients together; none when clipping is off.
    pub fn clip(&self) -> Option<f64> {
        Some(self.entry().clip()).filter(|clip| *clip > 0.0)
    }

    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Error::Options`](crate::Error::Options) with every value out of range.
    pub fn check(&self) -> Result<()> {
        let mut problems = Problems::of("optim");
        self.entry().check(&mut problems);
        problems.finish()
    }

    /// What the optimizer keeps for the parameter of this path and shape, as it is saved. The sum of
    /// [`StateTensor::bytes`] over a model's parameters is the optimizer's memory.
    pub fn state(&self, path: &str, shape: &[usize]) -> Vec<StateTensor> {
        self.entry().state(Group::of(path, shape), shape)
    }

    /// Whether states rest in host memory and not on the device.
    pub fn pages(&self) -> bool {
        matches!(self, Self::PagedAdamW(_))
    }

    /// Whether it makes its own learning rate, of which [`lr`](Self::lr) is only a factor.
    pub fn makes_its_rate(&self) -> bool {
        matches!(
            self,
            Self::Adafactor(AdafactorConfig {
                relative_step: true,
                ..
            })
        )
    }

    pub(crate) fn build(&self, group: Group) -> Arc<dyn DynOptimizer> {
        self.entry().build(group)
    }

    pub(crate) fn many(&self, group: Group) -> Option<ManyRule> {
        self.entry().many(group)
    }
}

/// One tensor of a parameter's optimizer state.
#[derive(Debug, Clone, PartialEq)]
pub struct StateTensor {
    /// Last segment of its name: `exp_avg` is saved as `<parameter path>.exp_avg`.
    pub name: &'static str,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl StateTensor {
    /// Size in memory.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Name of the scalar that every optimizer state holds: the updates its parameter has had. 0 stands for no state yet.
pub(crate) const STEP: &str = "step";

/// What one optimizer adds: its options, and how they become a Burn optimizer.
trait Rule {
    fn lr(&self) -> f64;

    /// Largest gradient norm, 0 for none.
    fn clip(&self) -> f64;

    /// Notes options out of range.
    fn check(&self, problems: &mut Problems);

    /// The update rule of one parameter group.
    fn build(&self, group: Group) -> Arc<dyn DynOptimizer>;

    /// The rule that kernels have for many parameters of this group at once, with the state of [`Rule::build`]'s.
    fn many(&self, _group: Group) -> Option<ManyRule> {
        None
    }

    /// The saved state of a parameter of this group and shape, [`STEP`] included.
    fn state(&self, group: Group, shape: &[usize]) -> Vec<StateTensor>;
}

/// A state tensor of f32.
fn moment(name: &'static str, shape: &[usize]) -> StateTensor {
    StateTensor {
        name,
        shape: shape.to_vec(),
        dtype: DType::F32,
    }
}

/// The count of updates.
fn step() -> StateTensor {
    StateTensor {
        name: STEP,
        shape: vec![],
        dtype: DType::I64,
    }
}

/// f32 zeros in the shape and place of `like`.
fn zeros<const D: usize>(like: &Tensor<D>) -> Tensor<D> {
    Tensor::zeros(like.shape(), (&like.device(), DType::F32))
}

/// The count of updates in a record.
fn take_step(prefix: &str, src: &mut StateSource) -> Option<u64> {
    u64::try_from(src.take_scalar(prefix, STEP)?).ok()
}

/// An f32 state in a record.
fn take<const D: usize>(prefix: &str, name: &str, src: &mut StateSource, device: &Device) -> Option<Tensor<D>> {
    Some(Tensor::from_data(src.take_tensor(prefix, name)?, (device, DType::F32)))
}
