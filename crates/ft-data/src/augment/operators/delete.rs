//! Random deletion: each word is left out with probability α. The first word of a sentence, words next to punctuation and the last one
//! that could go stay.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Operator, rate};
use crate::augment::Protected;
use crate::augment::words::{free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// Options of `delete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Probability of a word to be left out (EDA's `alpha_rd`).
    pub alpha: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { alpha: 0.1 }
    }
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        rate("alpha", self.alpha)
    }
}

/// The operator.
pub fn build(options: &Options) -> Result<Box<dyn Operator>> {
    Ok(Box::new(options.clone()))
}

impl Operator for Options {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        const STEPS: usize = 1 << 20;
        let mut pieces = pieces(source, change);
        let mut words = free(&pieces);
        words.retain(|at| pieces[*at].alone && !pieces[*at].first && *at > 0);
        let mut left = words.len();
        for at in words {
            if left > 1 && (below(rng, STEPS) as f64) < self.alpha * STEPS as f64 {
                left -= 1;
                pieces[at].text.clear();
                // One of the two spaces around it goes too.
                let space = &mut pieces[at - 1].text;
                space.pop();
            }
        }
        text(&pieces)
    }
}
