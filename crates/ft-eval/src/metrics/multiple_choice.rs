//! Accuracy of multiple choice by log-likelihood, from 0 to 1, as lm-evaluation-harness 0.4 computes it: the likeliest answer counts, the
//! first among equals.

use crate::Choice;

pub(super) const ABOUT: &str = "share of questions whose likeliest answer is right";
pub(super) const ABOUT_NORM: &str = "the same by likelihood per character of the answer";

pub(super) fn acc(choices: &[Choice]) -> f64 {
    share(choices, |sum, _| sum)
}

pub(super) fn acc_norm(choices: &[Choice]) -> f64 {
    share(choices, |sum, length| sum / length as f64)
}

fn share(choices: &[Choice], score: impl Fn(f64, usize) -> f64) -> f64 {
    let right = choices.iter().filter(|choice| {
        let scores = choice
            .log_likelihoods
            .iter()
            .zip(&choice.lengths)
            .map(|(sum, length)| score(*sum, *length));
        let best = scores
            .enumerate()
            .reduce(|best, other| if other.1 > best.1 { other } else { best });
        best.is_some_and(|(index, _)| index == choice.answer)
    });
    right.count() as f64 / choices.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_unlikely_and_the_first_of_equals_counts() {
        let choice = |sums: [f64; 2], lengths: [usize; 2], answer| Choice {
            log_likelihoods: sums.to_vec(),
            lengths: lengths.to_vec(),
            answer,
        };
        let choices = [choice([-4.0, -9.0], [1, 9], 1), choice([-2.0, -2.0], [3, 3], 0)];
        assert_eq!((acc(&choices), acc_norm(&choices)), (0.5, 1.0));
        assert_eq!(acc(&[]), 0.0);
    }
}
