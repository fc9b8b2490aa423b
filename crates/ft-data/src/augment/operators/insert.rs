//! Random insertion: a synonym of a word of the text is put before another word, n = max(1, ⌊α l⌋) times.

use rand_chacha::ChaCha8Rng;

use super::{Operator, changes};
use crate::augment::Protected;
use crate::augment::lexicon::{Lexicon, LexiconOptions};
use crate::augment::words::{free, pieces, text};
use crate::error::Result;
use ft_seed::below;

/// The operator.
///
/// # Errors
/// A lexicon that cannot be read.
pub fn build(options: &LexiconOptions) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Insert {
        alpha: options.alpha,
        lexicon: Lexicon::load(options.lexicon.as_deref())?,
    }))
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
