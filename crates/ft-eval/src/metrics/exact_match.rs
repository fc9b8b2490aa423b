//! Exact match: the share of answers equal to one of their references.
//!
//! Both sides are normalized in one way only: white space at the ends goes, every inner run of white space becomes one space. Case,
//! punctuation and articles count.

use super::Answer;

pub(super) const ABOUT: &str = "share of answers equal to a reference, white space aside";

pub(super) fn compute(answers: &[Answer]) -> f64 {
    let hits = answers.iter().filter(|answer| {
        let hypothesis = normalize(&answer.hypothesis);
        answer
            .references
            .iter()
            .any(|reference| normalize(reference) == hypothesis)
    });
    hits.count() as f64 / answers.len().max(1) as f64
}

fn normalize(text: &str) -> String {
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
        assert_eq!(compute(&answers), 0.5);
        assert_eq!(compute(&[]), 0.0);
    }
}
