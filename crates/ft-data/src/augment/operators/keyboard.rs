//! Slips of the finger: letters give way to those on a neighbouring key.

use rand_chacha::ChaCha8Rng;

use super::Operator;
use super::noise::{Amount, letters};
use crate::augment::Protected;
use crate::error::Result;

/// Letters of the shortest words that change, as in nlpaug.
const MIN_CHAR: usize = 4;

/// The operator.
pub fn build(amount: &Amount) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Keyboard(*amount)))
}

#[derive(Debug)]
struct Keyboard(Amount);

impl Operator for Keyboard {
    fn apply(&self, source: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String {
        letters(source, self.0, MIN_CHAR, change, rng, neighbours)
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
