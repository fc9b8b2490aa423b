//! SQuAD's measures (Rajpurkar et al. 2016 and 2018): F1 of words and exact match with the best reference, the mean over answers, from
//! 0 to 1, as the evaluation script of SQuAD 2.0 computes them.
//!
//! Lower case; ASCII punctuation goes, then the articles a, an and the. Texts without a word are right against one another only.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::Answer;
use crate::Settings;
use crate::text::ngrams::{counts, overlap};
use crate::text::python;

pub(super) const ABOUT_F1: &str = "F1 of words, 0 to 1 (SQuAD's, with its normalization)";
pub(super) const ABOUT_EXACT: &str = "share of answers equal to a reference after SQuAD's normalization";

pub(super) fn f1(answers: &[Answer], _: &Settings) -> f64 {
    best(answers, |reference, answer| {
        if reference.is_empty() || answer.is_empty() {
            return f64::from(reference == answer);
        }
        let matched = overlap(&counts(reference, 1), &counts(answer, 1)) as f64;
        if matched == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (matched / answer.len() as f64, matched / reference.len() as f64);
        2.0 * precision * recall / (precision + recall)
    })
}

pub(super) fn exact(answers: &[Answer], _: &Settings) -> f64 {
    best(answers, |reference, answer| f64::from(reference == answer))
}

fn best(answers: &[Answer], score: impl Fn(&[String], &[String]) -> f64) -> f64 {
    super::mean(answers, |answer| {
        let hypothesis = words(&answer.hypothesis);
        let references = answer.references.iter();
        references
            .map(|reference| score(&words(reference), &hypothesis))
            .fold(0.0, f64::max)
    })
}

/// Runs of what Python calls a word character.
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a constant"));

fn words(text: &str) -> Vec<String> {
    let text: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let text = WORD.replace_all(&text, |found: &Captures<'_>| match &found[0] {
        "a" | "an" | "the" => " ".to_string(),
        word => word.to_string(),
    });
    python::words(&text).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn articles_case_and_punctuation_are_forgiven() {
        let settings = Settings::default();
        assert_eq!(
            words("The Mill's a \u{e9}tude, an-other…"),
            ["mills", "étude", "another…"]
        );
        let answers = [
            answer("The Mill!", &["a pub", "mill"]),
            answer("the", &["a"]),
            answer("", &["x"]),
        ];
        assert_eq!(
            (f1(&answers, &settings), exact(&answers, &settings)),
            (2.0 / 3.0, 2.0 / 3.0)
        );
        assert_eq!(f1(&[answer("red old pub", &["old red mill"])], &settings), 2.0 / 3.0);
    }
}
