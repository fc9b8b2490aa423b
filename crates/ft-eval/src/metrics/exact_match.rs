//! Exact match: the share of answers equal to one of their references.
//!
//! Both sides are normalized in one way only: white space at the ends goes, every inner run of white space becomes one space. Case,
//! punctuation and articles count.

use super::Answer;
use crate::Settings;

pub(super) const ABOUT: &str = "share of answers equal to a reference, white space aside";

pub(super) fn compute(answers: &[Answer], _: &Settings) -> f64 {
    super::mean(answers, |answer| {
        let hypothesis = normalize(&answer.hypothesis);
        let mut references = answer.references.iter();
        f64::from(references.any(|reference| normalize(reference) == hypothesis))
    })
}

pub(super) fn normalize(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn only_white_space_is_forgiven() {
        let answers = [
            answer(" the  cat\nsat ", &["a dog", "the cat sat"]),
            answer("The cat sat", &["the cat sat"]),
            answer("the cat sat.", &["the cat sat"]),
            answer("", &[" "]),
        ];
        let compute = |answers: &[Answer]| compute(answers, &Settings::default());
        assert_eq!(compute(&answers), 0.5);
        assert_eq!(compute(&[]), 0.0);
    }
}
