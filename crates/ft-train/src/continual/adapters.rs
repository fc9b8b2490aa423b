//! An adapter for each task, one after the other, over one base that stays as it is: nothing is shared, and nothing is forgotten.
//!
//! ```text
//! final/TASK/    the adapter of each task
//! R[i][j]        the loss of task j with its own adapter: trained if j <= i, fresh otherwise
//! ```
//!
//! BWT and forgetting are 0 by construction, and FWT is 0 where a fresh adapter is the base: what this shows is what a task comes to alone, for
//! who knows which task a text is of. General text is measured with no adapter at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sequential::Plain;
use super::{Next, Setting, Strategy, StrategyKind};

/// No options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptersConfig {}

impl StrategyKind for AdaptersConfig {
    fn needs_whole_steps(&self) -> bool {
        false
    }

    fn next(&self) -> Option<Next> {
        Some(Next::Separate)
    }

    fn build(&self, _: Setting) -> Box<dyn Strategy> {
        Box::new(Plain)
    }
}
