//! NIST (Doddington 2002, "Automatic evaluation of machine translation quality using n-gram co-occurrence statistics"), from 0 up, as
//! the E2E challenge's metrics compute it in Python: tokens of mteval-v13a in lower case, up to 5-grams, the information of an n-gram
//! from the references, whose number may differ from answer to answer.

use std::collections::{BTreeMap, HashMap};

use super::Answer;
use crate::Settings;
use crate::text::ngrams::{counts, most};
use crate::text::v13a;

pub(super) const ABOUT: &str = "NIST over 5-grams, 0 and up (the E2E challenge's)";

/// Longest n-gram.
const ORDER: usize = 5;

/// Half the score is left of an answer with two thirds of the references' length.
fn beta() -> f64 {
    0.5f64.ln().abs() / 1.5f64.ln().powi(2)
}

/// Texts, cut.
struct Tokens {
    hypothesis: Vec<String>,
    references: Vec<Vec<String>>,
}

pub(super) fn compute(answers: &[Answer], _: &Settings) -> f64 {
    if answers.is_empty() {
        return 0.0;
    }
    let cut: Vec<Tokens> = answers.iter().map(Tokens::new).collect();
    let score: f64 = (1..=ORDER).map(|n| information_per_ngram(&cut, n)).sum();
    score * brevity(&cut)
}

impl Tokens {
    fn new(answer: &Answer) -> Self {
        Self {
            hypothesis: tokens(&answer.hypothesis),
            references: answer.references.iter().map(|text| tokens(text)).collect(),
        }
    }
}

/// An empty text counts as one empty token.
fn tokens(text: &str) -> Vec<String> {
    let tokens: Vec<String> = v13a(text).iter().map(|token| token.to_lowercase()).collect();
    if tokens.is_empty() { vec![String::new()] } else { tokens }
}

/// The information of the n-grams that are right, per n-gram of all answers.
fn information_per_ngram(cut: &[Tokens], n: usize) -> f64 {
    let (shorter, longer) = (reference_counts(cut, n - 1), reference_counts(cut, n));
    let information = |gram: &[String]| (shorter[&gram[..n - 1]] as f64 / longer[gram] as f64).log2();
    let mut sum = 0.0;
    for Tokens { hypothesis, references } in cut {
        let allowed = most(references.iter().map(|reference| counts(reference, n)));
        // In a fixed order: a sum of floats depends on it.
        let answered: BTreeMap<_, _> = counts(hypothesis, n).into_iter().collect();
        let right = answered
            .into_iter()
            .filter_map(|(gram, count)| Some((gram, count.min(*allowed.get(gram)?))));
        sum += right.map(|(gram, count)| information(gram) * count as f64).sum::<f64>();
    }
    // As in the original, an answer too short for the order takes away from the count.
    let total: i64 = cut
        .iter()
        .map(|tokens| tokens.hypothesis.len() as i64 - (n as i64 - 1))
        .sum();
    if total == 0 { 0.0 } else { sum / total as f64 }
}

/// n-grams of all references; the one 0-gram occurs once per token.
fn reference_counts(cut: &[Tokens], n: usize) -> HashMap<&[String], usize> {
    let mut all = HashMap::new();
    for reference in cut.iter().flat_map(|tokens| &tokens.references) {
        if n == 0 {
            *all.entry(&[][..]).or_insert(0) += reference.len();
        } else {
            reference.windows(n).for_each(|gram| *all.entry(gram).or_insert(0) += 1);
        }
    }
    all
}

/// Answers shorter than the references are on average lose.
fn brevity(cut: &[Tokens]) -> f64 {
    let answered: usize = cut.iter().map(|tokens| tokens.hypothesis.len()).sum();
    let mean = |Tokens { references, .. }: &Tokens| {
        references.iter().map(Vec::len).sum::<usize>() as f64 / references.len().max(1) as f64
    };
    let ratio = answered as f64 / cut.iter().map(mean).sum::<f64>();
    if ratio >= 1.0 {
        1.0
    } else {
        (-beta() * ratio.ln().powi(2)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn rare_words_tell_more() {
        let score = |hypothesis: &str| {
            let answers = [answer(hypothesis, &["the pub the mill", "the the mill pub the"])];
            compute(&answers, &Settings::default())
        };
        assert!(score("mill x x x x") > score("the x x x x"));
        assert_eq!(score("x x x x x"), 0.0);
        // Two thirds of the length: half of what the n-gram alone would give.
        let one = |hypothesis: &str| compute(&[answer(hypothesis, &["a b c d e f"])], &Settings::default());
        assert!((one("a x y z") / (6f64.log2() / 4.0) - 0.5).abs() < 1e-12);
        assert_eq!(compute(&[answer("", &[""])], &Settings::default()), 0.0);
    }
}
