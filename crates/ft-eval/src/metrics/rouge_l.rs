//! ROUGE-L: the F-measure of the longest common subsequence of words (Lin 2004), the mean over answers, from 0 to 1.
//!
//! As Google's rouge-score computes `rougeL` without stemming: lower case, words are runs of `a-z0-9`, the best reference counts.

use super::Answer;

pub(super) const ABOUT: &str = "F-measure of the longest common subsequence of words, 0 to 1 (rouge-score's rougeL)";

pub(super) fn compute(answers: &[Answer]) -> f64 {
    answers.iter().map(best).sum::<f64>() / answers.len().max(1) as f64
}

fn best(answer: &Answer) -> f64 {
    let hypothesis = words(&answer.hypothesis);
    answer
        .references
        .iter()
        .map(|reference| f_measure(&words(reference), &hypothesis))
        .fold(0.0, f64::max)
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_string)
        .collect()
}

fn f_measure(reference: &[String], hypothesis: &[String]) -> f64 {
    let common = common_subsequence(reference, hypothesis) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / hypothesis.len() as f64, common / reference.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Length of the longest common subsequence; one row of the table at a time.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn order_counts_and_the_best_reference_does() {
        // The example of the paper's section 3.1: police kill the gunman / the gunman kill police.
        assert_eq!(
            compute(&[answer("police kill the gunman", &["police killed the gunman"])]),
            0.75
        );
        assert_eq!(
            compute(&[answer("the gunman kill police", &["police killed the gunman"])]),
            0.5
        );
        assert_eq!(compute(&[answer("A b!", &["x", "a, B"]), answer("", &["a"])]), 0.5);
    }
}
