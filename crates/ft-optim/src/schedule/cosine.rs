//! Cosine annealing (Loshchilov and Hutter, "SGDR", 2017), with an optional floor.

use super::{Curve, Run, Span, check_floor, cosine_wave, floor};
use crate::error::Problems;

/// `kind = "cosine"` (transformers' `cosine` and `cosine_with_min_lr`): `½(1 + cos(2π·num_cycles·x))` over the share `x` of the
/// run after the warmup.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cosine {
    /// Steps (`10`) or share of the run (`0.03`) over which the rate rises from zero.
    pub warmup: Span,
    /// Waves in the run; one half goes down once and stays there.
    pub num_cycles: f64,
    /// Lowest rate, absolute. At most one of `min_lr` and `min_lr_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// Lowest rate as a share of the base rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
}

impl Default for Cosine {
    fn default() -> Self {
        Self {
            warmup: Span::Steps(0),
            num_cycles: 0.5,
            min_lr: None,
            min_lr_rate: None,
        }
    }
}

impl Curve for Cosine {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn after(&self, run: &Run) -> f64 {
        cosine_wave(
            self.num_cycles,
            run.progress(),
            floor(self.min_lr, self.min_lr_rate, run.base),
        )
    }

    fn check(&self, run: &Run, problems: &mut Problems) {
        problems.within(self.num_cycles, 0.0..=f64::INFINITY, "num_cycles");
        check_floor(self.min_lr, self.min_lr_rate, run, problems);
    }
}
