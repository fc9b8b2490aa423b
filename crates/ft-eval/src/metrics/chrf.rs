//! chrF (Popović 2015) and chrF++ (Popović 2017), from 0 to 100, as sacreBLEU 2.6.0 computes them: F2 of character n-grams up to 6
//! without white space, for chrF++ also of words and their pairs; the best reference counts.

use std::hash::Hash;

use super::{Answer, signature};
use crate::Settings;
use crate::text::ngrams::{counts, overlap};
use crate::text::python;

pub(super) const ABOUT: &str = "corpus chrF, 0 to 100 (sacreBLEU's chrF2)";
pub(super) const ABOUT_PLUS: &str = "corpus chrF++, 0 to 100 (sacreBLEU's chrF2++)";

/// Longest n-gram of characters.
const CHARACTERS: usize = 6;
/// Longest n-gram of words, in chrF++.
const WORDS: usize = 2;
/// Recall weighs so many times as much as precision.
const BETA: f64 = 2.0;

pub(super) fn chrf(answers: &[Answer], settings: &Settings) -> f64 {
    corpus(answers, settings, 0)
}

pub(super) fn chrf_plus(answers: &[Answer], settings: &Settings) -> f64 {
    corpus(answers, settings, WORDS)
}

pub(super) fn chrf_signature(answers: &[Answer], settings: &Settings) -> String {
    signed(answers, settings, 0)
}

pub(super) fn chrf_plus_signature(answers: &[Answer], settings: &Settings) -> String {
    signed(answers, settings, WORDS)
}

fn signed(answers: &[Answer], settings: &Settings, words: usize) -> String {
    let rest = format!("eff:yes|nc:{CHARACTERS}|nw:{words}|space:no");
    signature(answers, settings.lowercase, &rest)
}

/// n-grams of one order: of the answer, of the reference, of both.
#[derive(Clone, Copy, Default)]
struct Order {
    hypothesis: usize,
    reference: usize,
    matched: usize,
}

fn corpus(answers: &[Answer], settings: &Settings, words: usize) -> f64 {
    let mut total = vec![Order::default(); CHARACTERS + words];
    for answer in answers {
        for (sum, order) in total.iter_mut().zip(best(answer, settings, words)) {
            sum.hypothesis += order.hypothesis;
            sum.reference += order.reference;
            sum.matched += order.matched;
        }
    }
    f_score(&total)
}

/// The counts with the first of the references that score best.
fn best(answer: &Answer, settings: &Settings, words: usize) -> Vec<Order> {
    let parts = |text: &String| match settings.lowercase {
        true => Parts::new(&text.to_lowercase()),
        false => Parts::new(text),
    };
    let hypothesis = parts(&answer.hypothesis);
    let mut best = (-1.0, Vec::new());
    for reference in answer.references.iter().map(parts) {
        let characters = (1..=CHARACTERS).map(|n| order(&hypothesis.characters, &reference.characters, n));
        let words = (1..=words).map(|n| order(&hypothesis.words, &reference.words, n));
        let orders: Vec<Order> = characters.chain(words).collect();
        let score = f_score(&orders);
        if score > best.0 {
            best = (score, orders);
        }
    }
    best.1
}

fn order<T: Eq + Hash>(hypothesis: &[T], reference: &[T], n: usize) -> Order {
    let count = |length: usize| (length + 1).saturating_sub(n);
    let reference_count = count(reference.len());
    Order {
        // A reference too short for the order does not count against the answer.
        hypothesis: if reference_count > 0 {
            count(hypothesis.len())
        } else {
            0
        },
        reference: reference_count,
        matched: overlap(&counts(hypothesis, n), &counts(reference, n)),
    }
}

/// F of the mean precision and recall over the orders that both sides have.
fn f_score(orders: &[Order]) -> f64 {
    let both: Vec<&Order> = orders
        .iter()
        .filter(|order| order.hypothesis > 0 && order.reference > 0)
        .collect();
    let mean = |of: fn(&Order) -> usize| {
        let shares = both.iter().map(|order| order.matched as f64 / of(order) as f64);
        shares.sum::<f64>() / both.len().max(1) as f64
    };
    let (precision, recall) = (mean(|order| order.hypothesis), mean(|order| order.reference));
    if precision + recall == 0.0 {
        return 0.0;
    }
    let factor = BETA * BETA;
    100.0 * ((1.0 + factor) * precision * recall / (factor * precision + recall))
}

/// A text in characters without white space, and in words with punctuation at an end cut off.
struct Parts {
    characters: Vec<char>,
    words: Vec<String>,
}

impl Parts {
    fn new(text: &str) -> Self {
        Self {
            characters: text.chars().filter(|c| !python::is_space(*c)).collect(),
            words: python::words(text).flat_map(cut).map(str::to_string).collect(),
        }
    }
}

/// One mark goes: that at the end, or else that at the start.
fn cut(word: &str) -> Vec<&str> {
    let inner = |c: char| c.is_ascii_punctuation() && word.len() > 1;
    if word.ends_with(inner) {
        let (rest, mark) = word.split_at(word.len() - 1);
        vec![rest, mark]
    } else if word.starts_with(inner) {
        let (mark, rest) = word.split_at(1);
        vec![mark, rest]
    } else {
        vec![word]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn white_space_does_not_count_and_the_best_reference_does() {
        let settings = Settings::default();
        let answers = [answer("the cat sat", &["dogs", "thecat  sat"])];
        assert!((chrf(&answers, &settings) - 100.0).abs() < 1e-9);
        assert!(chrf_plus(&answers, &settings) < 99.0);
        assert_eq!(chrf(&[answer("", &["a"]), answer("a", &[""])], &settings), 0.0);
        assert_eq!(cut("(yes)"), ["(yes", ")"]);
        assert_eq!(cut("(yes"), ["(", "yes"]);
        assert_eq!([cut("!"), cut("é")].concat(), ["!", "é"]);
    }
}
