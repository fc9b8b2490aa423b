//! Cosine annealing with hard restarts (Loshchilov and Hutter, "SGDR", 2017).

use super::{Curve, Run, Span};
use crate::error::Problems;

/// `kind = "cosine_with_restarts"`: `½(1 + cos(π·(num_cycles·x mod 1)))` over the share `x` of the run after the warmup.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CosineWithRestarts {
    /// Steps (`10`) or share of the run (`0.03`) over which the rate rises from zero.
    pub warmup: Span,
    /// How many times the rate falls from the base rate to zero.
    pub num_cycles: u32,
}

impl Default for CosineWithRestarts {
    fn default() -> Self {
        Self {
            warmup: Span::Steps(0),
            num_cycles: 1,
        }
    }
}

impl Curve for CosineWithRestarts {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn after(&self, run: &Run) -> f64 {
        let progress = run.progress();
        if progress >= 1.0 {
            return 0.0;
        }
        let within = (f64::from(self.num_cycles) * progress) % 1.0;
        (0.5 * (1.0 + (std::f64::consts::PI * within).cos())).max(0.0)
    }

    fn check(&self, _run: &Run, problems: &mut Problems) {
        problems.unless(self.num_cycles > 0, "num_cycles", || "is 0, expected at least 1".into());
    }
}
