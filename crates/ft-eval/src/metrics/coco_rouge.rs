//! ROUGE-L as the caption metrics and the E2E challenge compute it (pycocoevalcap 1.2): words of Stanford's tokenizer, the best
//! precision and the best recall of any reference, recall weighed 1.2 squared times, the mean over answers, from 0 to 1.

use super::Answer;
use super::cider::words;
use crate::Settings;
use crate::text::lcs;

pub(super) const ABOUT: &str = "ROUGE-L of the caption metrics, 0 to 1 (pycocoevalcap's, the E2E challenge's)";

const BETA: f64 = 1.2;

pub(super) fn compute(answers: &[Answer], _: &Settings) -> f64 {
    let (hypotheses, references) = words(answers);
    let mut rest = references.as_slice();
    let score = |(answer, hypothesis): (&Answer, &Vec<String>)| {
        let (own, others) = rest.split_at(answer.references.len());
        rest = others;
        best(hypothesis, own)
    };
    answers.iter().zip(&hypotheses).map(score).sum::<f64>() / answers.len().max(1) as f64
}

/// A text without words counts as one empty word.
fn best(hypothesis: &[String], references: &[Vec<String>]) -> f64 {
    let empty = [String::new()];
    let filled = |words: &[String]| {
        if words.is_empty() {
            empty.to_vec()
        } else {
            words.to_vec()
        }
    };
    let hypothesis = filled(hypothesis);
    let (mut precision, mut recall) = (0.0, 0.0);
    for reference in references.iter().map(|words| filled(words)) {
        let common = lcs::length(&reference, &hypothesis) as f64;
        precision = f64::max(precision, common / hypothesis.len() as f64);
        recall = f64::max(recall, common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let factor = BETA * BETA;
    (1.0 + factor) * precision * recall / (recall + factor * precision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn precision_and_recall_may_be_of_different_references() {
        let answers = [
            answer("the old mill.", &["old", "the old mill by the river"]),
            answer("", &["."]),
        ];
        // All three words are in the second reference, all of the first reference is in the answer.
        assert_eq!(compute(&answers, &Settings::default()), 1.0);
    }
}
