//! What the operators that change letters share: which words, and how many letters of them.

use rand_chacha::ChaCha8Rng;

use super::some;
use crate::augment::Protected;
use crate::augment::words::{cased_like, free, pieces, text};
use ft_seed::below;

/// How much of a text changes; the names are nlpaug's.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    pub aug_word_p: f64,
    pub aug_char_p: f64,
    /// Most words, and most letters of a word.
    pub most: usize,
    /// Shorter words are left alone.
    pub min_char: usize,
}

/// The text with letters changed by `of`, which lists what may stand for a letter in lower case.
pub fn letters<'a>(
    source: &str,
    amount: Amount,
    change: &[Protected],
    rng: &mut ChaCha8Rng,
    of: impl Fn(char) -> &'a [&'a str],
) -> String {
    let mut pieces = pieces(source, change);
    let can = |c: char| c.to_lowercase().next().is_some_and(|c| !of(c).is_empty());
    let mut words = free(&pieces);
    words.retain(|at| {
        let word = &pieces[*at].text;
        word.chars().count() >= amount.min_char && word.chars().any(can)
    });
    let count = |share: f64, all: usize| ((share * all as f64) as usize).clamp(1, amount.most.max(1));
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
