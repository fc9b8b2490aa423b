//! What scanning does to letters: they give way to others of a similar shape.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::noise::{Amount, letters};
use super::{Operator, rate};
use crate::augment::Protected;
use crate::error::Result;

/// Options of `ocr`, with nlpaug's defaults.
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
            min_char: 1,
        };
        letters(source, amount, change, rng, confused)
    }
}

/// What a scanner reads for a letter.
fn confused(letter: char) -> &'static [&'static str] {
    match letter {
        'a' => &["o"],
        'b' => &["h", "6"],
        'c' => &["e", "o"],
        'd' => &["cl"],
        'e' => &["c"],
        'f' => &["t"],
        'g' => &["q", "9"],
        'h' => &["b", "n"],
        'i' => &["l", "1"],
        'j' => &["i"],
        'k' => &["lc"],
        'l' => &["i", "1"],
        'm' => &["rn", "nn"],
        'n' => &["u", "ri"],
        'o' => &["0", "c"],
        'q' => &["g"],
        'r' => &["n"],
        's' => &["5"],
        't' => &["f", "l"],
        'u' => &["v", "n"],
        'v' => &["u"],
        'w' => &["vv"],
        'y' => &["v"],
        'z' => &["2"],
        _ => &[],
    }
}
