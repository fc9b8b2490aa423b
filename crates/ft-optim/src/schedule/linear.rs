//! A straight line from the base rate to zero.

use super::{Curve, Run, Span};

/// `kind = "linear"`: `(T - t) / (T - w)`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Linear {
    /// Steps (`10`) or share of the run (`0.03`) over which the rate rises from zero.
    pub warmup: Span,
}

impl Default for Linear {
    fn default() -> Self {
        Self { warmup: Span::Steps(0) }
    }
}

impl Curve for Linear {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn after(&self, run: &Run) -> f64 {
        ((run.total - run.step) / (run.total - run.warmup).max(1.0)).max(0.0)
    }
}
