//! What the operators that change letters share: which words, and how many letters of them.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Options, rate, some};
use crate::augment::Protected;
use crate::augment::words::{cased_like, free, pieces, text};
use ft_seed::below;

/// How much of a text changes, with nlpaug's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Amount {
    /// Share of the words that change; at least one does.
    pub aug_word_p: f64,
    /// Share of the letters of such a word; at least one does.
    pub aug_char_p: f64,
    /// Most words of a text, and most letters of a word.
    pub aug_max: usize,
}

impl Default for Amount {
    fn default() -> Self {
        Self {
            aug_word_p: 0.3,
            aug_char_p: 0.3,
            aug_max: 10,
        }
    }
}

impl Options for Amount {
    fn wrong(&self) -> Option<String> {
        rate("aug_word_p", self.aug_word_p).or_else(|| rate("aug_char_p", self.aug_char_p))
    }
}

/// The text with letters changed in words of at least `min_char` of them by `of`, which lists what may stand for a letter in lower case.
pub fn letters<'a>(
    source: &str,
    amount: Amount,
    min_char: usize,
    change: &[Protected],
    rng: &mut ChaCha8Rng,
    of: impl Fn(char) -> &'a [&'a str],
) -> String {
    let mut pieces = pieces(source, change);
    let can = |c: char| c.to_lowercase().next().is_some_and(|c| !of(c).is_empty());
    let mut words = free(&pieces);
    words.retain(|at| {
        let word = &pieces[*at].text;
        word.chars().count() >= min_char && word.chars().any(can)
    });
    let count = |share: f64, all: usize| ((share * all as f64) as usize).clamp(1, amount.aug_max.max(1));
    for at in some(words.clone(), count(amount.aug_word_p, words.len()), rng) {
        let chars: Vec<char> = pieces[at].text.chars().collect();
        let open: Vec<usize> = (0..chars.len()).filter(|i| can(chars[*i])).collect();
        let chosen = some(open, count(amount.aug_char_p, chars.len()), rng);
        let letter = |(i, c): (usize, &char)| {
            if !chosen.contains(&i) {
                return c.to_string();
            }
            let others = of(c.to_lowercase().next().unwrap_or(*c));
            cased_like(others[below(rng, others.len())], &c.to_string())
        };
        pieces[at].text = chars.iter().enumerate().map(letter).collect();
    }
    text(&pieces)
}
