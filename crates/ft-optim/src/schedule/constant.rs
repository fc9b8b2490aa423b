//! The base rate throughout, after an optional warmup.

use super::{Curve, Run, Span};

/// `kind = "constant"` (transformers' `constant` and `constant_with_warmup`).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Constant {
    /// Steps (`10`) or share of the run (`0.03`) over which the rate rises from zero.
    pub warmup: Span,
}

impl Default for Constant {
    fn default() -> Self {
        Self { warmup: Span::Steps(0) }
    }
}

impl Curve for Constant {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn after(&self, _run: &Run) -> f64 {
        1.0
    }
}
