//! Random swap: two words change places, n = max(1, ⌊α l⌋) times.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Operator, changes, rate};
use crate::augment::Protected;
use crate::augment::words::{cased_like, free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// Options of `swap`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Swaps for each word of the text (EDA's `alpha_rs`); at least one is made.
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
        let mut pieces = pieces(source, change);
        let words = free(&pieces);
        if words.len() < 2 {
            return source.to_owned();
        }
        for _ in 0..changes(self.alpha, words.len()) {
            let (a, b) = (below(rng, words.len()), below(rng, words.len() - 1));
            let [a, b] = [a, b + usize::from(b >= a)].map(|at| words[at]);
            let [from_a, from_b] = [a, b].map(|at| {
                let piece = &pieces[at];
                // A capital at the start of a sentence belongs to the place.
                if piece.first {
                    piece.text.to_lowercase()
                } else {
                    piece.text.clone()
                }
            });
            let at_a = if pieces[a].first {
                cased_like(&from_b, &pieces[a].text)
            } else {
                from_b
            };
            let at_b = if pieces[b].first {
                cased_like(&from_a, &pieces[b].text)
            } else {
                from_a
            };
            (pieces[a].text, pieces[b].text) = (at_a, at_b);
        }
        text(&pieces)
    }
}
