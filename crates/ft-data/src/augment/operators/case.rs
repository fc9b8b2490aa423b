//! Another case for the words that may change.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operator;
use crate::augment::Protected;
use crate::augment::words::{free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// Options of `case`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Which.
    pub to: Case,
}

/// A case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// Small letters.
    #[default]
    Lower,
    /// Capitals.
    Upper,
    /// Either, drawn for each text.
    Random,
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        None
    }
}

/// The operator.
pub fn build(options: &Options) -> Result<Box<dyn Operator>> {
    Ok(Box::new(options.clone()))
}

impl Operator for Options {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        let upper = match self.to {
            Case::Lower => false,
            Case::Upper => true,
            Case::Random => below(rng, 2) == 1,
        };
        let mut pieces = pieces(source, change);
        for at in free(&pieces) {
            let word = &mut pieces[at].text;
            *word = if upper {
                word.to_uppercase()
            } else {
                word.to_lowercase()
            };
        }
        text(&pieces)
    }
}
