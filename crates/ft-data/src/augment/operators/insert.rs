//! Random insertion: a synonym of a word of the text is put before another word, n = max(1, ⌊α l⌋) times.

use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Operator, changes, rate};
use crate::augment::Protected;
use crate::augment::lexicon::Lexicon;
use crate::augment::words::{free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// Options of `insert`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Insertions for each word of the text (EDA's `alpha_ri`); at least one is made.
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
        Ok(Box::new(Insert {
            alpha: self.alpha,
            lexicon: Lexicon::load(self.lexicon.as_deref())?,
        }))
    }
}

#[derive(Debug)]
struct Insert {
    alpha: f64,
    lexicon: Lexicon,
}

impl Operator for Insert {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        let mut pieces = pieces(source, change);
        let words = free(&pieces);
        let known = |at: &usize| !self.lexicon.of(&pieces[*at].text.to_lowercase()).is_empty();
        let known: Vec<usize> = words.iter().copied().filter(known).collect();
        // Before words that follow a space: inside a sentence.
        let gaps = words
            .iter()
            .copied()
            .filter(|at| *at > 0 && !pieces[*at].first && pieces[*at].alone);
        let gaps: Vec<usize> = gaps.collect();
        if known.is_empty() || gaps.is_empty() {
            return source.to_owned();
        }
        let drawn: Vec<(usize, String)> = (0..changes(self.alpha, words.len()))
            .map(|_| {
                let word = &pieces[known[below(rng, known.len())]].text.to_lowercase();
                let synonyms = self.lexicon.of(word);
                (
                    gaps[below(rng, gaps.len())],
                    synonyms[below(rng, synonyms.len())].clone(),
                )
            })
            .collect();
        for (at, synonym) in drawn {
            pieces[at].text = format!("{synonym} {}", pieces[at].text);
        }
        text(&pieces)
    }
}
