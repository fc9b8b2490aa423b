//! Synonym replacement: n = max(1, ⌊α l⌋) words of the text, all their occurrences, give way to synonyms.

use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Operator, changes, rate, some};
use crate::augment::Protected;
use crate::augment::lexicon::Lexicon;
use crate::augment::words::{cased_like, free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// Options of `synonyms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Words of the text that are replaced, as a share (EDA's `alpha_sr`); at least one is.
    pub alpha: f64,
    /// File of synonyms, a group of words in each line, divided by commas, in the place of the small bundled one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lexicon: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            alpha: 0.1,
            lexicon: None,
        }
    }
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        rate("alpha", self.alpha)
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Synonyms {
            alpha: self.alpha,
            lexicon: Lexicon::load(self.lexicon.as_deref())?,
        }))
    }
}

#[derive(Debug)]
struct Synonyms {
    alpha: f64,
    lexicon: Lexicon,
}

impl Operator for Synonyms {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        let mut pieces = pieces(source, change);
        let words = free(&pieces);
        let lower = |at: &usize| pieces[*at].text.to_lowercase();
        let mut known: Vec<String> = words
            .iter()
            .map(lower)
            .filter(|word| !self.lexicon.of(word).is_empty())
            .collect();
        known.sort_unstable();
        known.dedup();
        let chosen = some((0..known.len()).collect(), changes(self.alpha, words.len()), rng);
        for number in chosen {
            let word = &known[number];
            let synonyms = self.lexicon.of(word);
            let synonym = &synonyms[below(rng, synonyms.len())];
            for at in &words {
                if pieces[*at].text.to_lowercase() == *word {
                    pieces[*at].text = cased_like(synonym, &pieces[*at].text);
                }
            }
        }
        text(&pieces)
    }
}
