//! What scanning does to letters: they give way to others of a similar shape.

use rand_chacha::ChaCha8Rng;

use super::Operator;
use super::noise::{Amount, letters};
use crate::augment::Protected;
use crate::error::Result;

/// Letters of the shortest words that change, as in nlpaug.
const MIN_CHAR: usize = 1;

/// The operator.
pub fn build(amount: &Amount) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Ocr(*amount)))
}

#[derive(Debug)]
struct Ocr(Amount);

impl Operator for Ocr {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        letters(source, self.0, MIN_CHAR, change, rng, confused)
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
