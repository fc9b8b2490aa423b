//! Decay with the square root of the step (as in Zhai et al., "Scaling Vision Transformers", 2022).

use super::{Curve, Run, Span};
use crate::error::Problems;

/// `kind = "inverse_sqrt"`: `1 / sqrt((t + timescale - w) / timescale)`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InverseSqrt {
    /// Steps (`10`) or share of the run (`0.03`) over which the rate rises from zero.
    pub warmup: Span,
    /// Steps after which the decay sets in; by default the warmup's length, or 10000 without warmup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<u64>,
}

impl Default for InverseSqrt {
    fn default() -> Self {
        Self {
            warmup: Span::Steps(0),
            timescale: None,
        }
    }
}

impl Curve for InverseSqrt {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn after(&self, run: &Run) -> f64 {
        let unset = if run.warmup > 0.0 { run.warmup } else { 10_000.0 };
        let timescale = self.timescale.map_or(unset, |steps| steps as f64);
        let shift = timescale - run.warmup;
        1.0 / ((run.step + shift) / timescale).sqrt()
    }

    fn check(&self, _run: &Run, problems: &mut Problems) {
        problems.unless(self.timescale != Some(0), "timescale", || {
            "is 0, expected at least 1 step".into()
        });
    }
}
