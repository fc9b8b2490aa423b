//! One task after the other, with nothing done against forgetting: the floor that every strategy is measured from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Setting, Strategy, StrategyKind};

/// No options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SequentialConfig {}

impl StrategyKind for SequentialConfig {
    fn needs_whole_steps(&self) -> bool {
        false
    }

    fn build(&self, _: Setting) -> Box<dyn Strategy> {
        Box::new(Plain)
    }
}

/// Plain training.
pub(super) struct Plain;

impl Strategy for Plain {}
