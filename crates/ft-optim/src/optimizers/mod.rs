//! The optimizers: one file and one registry line each.

mod adamw;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::optim::DynOptimizer;
use burn::tensor::DType;

pub use adamw::{AdamW, AdamWConfig, AdamWState};

use crate::error::{Problems, Result};
use crate::registry::registry;

registry! {
    /// Section `[optim]`: the update rule and its numbers.
    pub enum OptimConfig: Rule {
        /// Adam with decoupled weight decay, states in f32 (the default).
        "adamw" => AdamW(AdamWConfig),
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

    /// What the optimizer keeps for a parameter of this shape, as it is saved. The sum of
    /// [`StateTensor::bytes`] over a model's parameters is the optimizer's memory.
    pub fn state(&self, shape: &[usize]) -> Vec<StateTensor> {
        self.entry().state(shape)
    }

    pub(crate) fn build(&self, decay: bool) -> Arc<dyn DynOptimizer> {
        self.entry().build(decay)
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

    /// The update rule of one parameter group, with or without weight decay.
    fn build(&self, decay: bool) -> Arc<dyn DynOptimizer>;

    /// The saved state of a parameter of this shape, [`STEP`] included.
    fn state(&self, shape: &[usize]) -> Vec<StateTensor>;
}
