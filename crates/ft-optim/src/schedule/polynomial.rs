//! A power of the remaining share of the run.

use super::{Curve, Run, Span};
use crate::error::Problems;

/// `kind = "polynomial"`: `(lr - lr_end)·(1 - x)^power + lr_end` over the share `x` of the run after the warmup.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Polynomial {
    /// Steps (`10`) or share of the run (`0.03`) over which the rate rises from zero.
    pub warmup: Span,
    /// Rate at the end of the run, absolute.
    pub lr_end: f64,
    /// Exponent; 1 is a straight line.
    pub power: f64,
}

impl Default for Polynomial {
    fn default() -> Self {
        Self {
            warmup: Span::Steps(0),
            lr_end: 1e-7,
            power: 1.0,
        }
    }
}

impl Curve for Polynomial {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn after(&self, run: &Run) -> f64 {
        let left = (1.0 - run.progress()).max(0.0);
        ((run.base - self.lr_end) * left.powf(self.power) + self.lr_end) / run.base
    }

    fn check(&self, run: &Run, problems: &mut Problems) {
        problems.within(self.power, 0.0..=f64::INFINITY, "power");
        problems.unless((0.0..run.base).contains(&self.lr_end), "lr_end", || {
            format!("is {}, expected a rate below `optim.lr` = {}", self.lr_end, run.base)
        });
    }
}
