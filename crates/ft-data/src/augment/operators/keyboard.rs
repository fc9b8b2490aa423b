//! Slips of the finger: letters give way to those on a neighbouring key.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::noise::{Amount, letters};
use super::{Operator, rate};
use crate::augment::Protected;
use crate::error::Result;

/// Options of `keyboard`, with nlpaug's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Share of the words that change; at least one does.
    pub aug_word_p: f64,
    /// Share of the letters of such a word; at least one does.
    pub aug_char_p: f64,
    /// Most words of a text, and most letters of a word.
    pub aug_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            aug_word_p: 0.3,
            aug_char_p: 0.3,
            aug_max: 10,
        }
    }
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        rate("aug_word_p", self.aug_word_p).or_else(|| rate("aug_char_p", self.aug_char_p))
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        Ok(Box::new(self.clone()))
    }
}

impl Operator for Options {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        let amount = Amount {
            aug_word_p: self.aug_word_p,
            aug_char_p: self.aug_char_p,
            most: self.aug_max,
            min_char: 4,
        };
        letters(source, amount, change, rng, neighbours)
    }
}

/// The keys around a letter on a QWERTY keyboard.
fn neighbours(letter: char) -> &'static [&'static str] {
    match letter {
        'a' => &["q", "s", "w", "z"],
        'b' => &["g", "h", "n", "v"],
        'c' => &["d", "f", "v", "x"],
        'd' => &["c", "e", "f", "r", "s", "x"],
        'e' => &["d", "r", "s", "w"],
        'f' => &["c", "d", "g", "r", "t", "v"],
        'g' => &["b", "f", "h", "t", "v", "y"],
        'h' => &["b", "g", "j", "n", "u", "y"],
        'i' => &["j", "k", "o", "u"],
        'j' => &["h", "i", "k", "m", "n", "u"],
        'k' => &["i", "j", "l", "m", "o"],
        'l' => &["k", "o", "p"],
        'm' => &["j", "k", "n"],
        'n' => &["b", "h", "j", "m"],
        'o' => &["i", "k", "l", "p"],
        'p' => &["l", "o"],
        'q' => &["a", "w"],
        'r' => &["d", "e", "f", "t"],
        's' => &["a", "d", "e", "w", "x", "z"],
        't' => &["f", "g", "r", "y"],
        'u' => &["h", "i", "j", "y"],
        'v' => &["b", "c", "f", "g"],
        'w' => &["a", "e", "q", "s"],
        'x' => &["c", "d", "s", "z"],
        'y' => &["g", "h", "t", "u"],
        'z' => &["a", "s", "x"],
        _ => &[],
    }
}
