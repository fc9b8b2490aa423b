//! Synonym replacement: n = max(1, ⌊α l⌋) words of the text, all their occurrences, give way to synonyms.

use rand_chacha::ChaCha8Rng;

use super::{Operator, changes, some};
use crate::augment::Protected;
use crate::augment::lexicon::{Lexicon, LexiconOptions};
use crate::augment::words::{cased_like, free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// The operator.
///
/// # Errors
/// A lexicon that cannot be read.
pub fn build(options: &LexiconOptions) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Synonyms {
        alpha: options.alpha,
        lexicon: Lexicon::load(options.lexicon.as_deref())?,
    }))
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
