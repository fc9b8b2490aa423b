//! All tasks at once, mixed as `[mixture]` says, in as many steps as one after the other would take: the ceiling. The rows of R are
//! taken where the tasks would end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sequential::Plain;
use super::{Setting, Strategy, StrategyKind};

/// No options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JointConfig {}

impl StrategyKind for JointConfig {
    fn is_joint(&self) -> bool {
        true
    }

    fn needs_whole_steps(&self) -> bool {
        false
    }

    fn build(&self, _: Setting) -> Box<dyn Strategy> {
        Box::new(Plain)
    }
}
