//! Cosine annealing with a floor, whose warmup starts at a share of the base rate instead of zero.

use super::{Curve, Run, Span, check_floor, cosine_wave, floor};
use crate::error::Problems;

/// `kind = "cosine_warmup_with_min_lr"`. Unlike `cosine`, the curve runs one step ahead, so that the last step of the
/// run is already at the floor and the first step is never at zero.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CosineWarmupWithMinLr {
    /// Steps (`10`) or share of the run (`0.03`) of the warmup.
    pub warmup: Span,
    /// Waves in the run; one half goes down once and stays there.
    pub num_cycles: f64,
    /// Lowest rate, absolute. At most one of `min_lr` and `min_lr_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// Lowest rate as a share of the base rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// Rate of the first step as a share of the base rate; by default one warmup step's worth, `1 / warmup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_lr_rate: Option<f64>,
}

impl Default for CosineWarmupWithMinLr {
    fn default() -> Self {
        Self {
            warmup: Span::Steps(0),
            num_cycles: 0.5,
            min_lr: None,
            min_lr_rate: None,
            warmup_lr_rate: None,
        }
    }
}

impl Curve for CosineWarmupWithMinLr {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn ramp(&self, run: &Run) -> f64 {
        match self.warmup_lr_rate {
            Some(start) => start + (1.0 - start) * run.step / (run.warmup - 1.0).max(1.0),
            None => (run.step + 1.0) / run.warmup,
        }
    }

    fn after(&self, run: &Run) -> f64 {
        let progress = (run.step - run.warmup + 1.0) / (run.total - run.warmup).max(1.0);
        cosine_wave(
            self.num_cycles,
            progress,
            floor(self.min_lr, self.min_lr_rate, run.base),
        )
    }

    fn check(&self, run: &Run, problems: &mut Problems) {
        problems.within(self.num_cycles, 0.0..=f64::INFINITY, "num_cycles");
        problems.within(self.warmup_lr_rate.unwrap_or(0.0), 0.0..=1.0, "warmup_lr_rate");
        check_floor(self.min_lr, self.min_lr_rate, run, problems);
    }
}
