//! ROUGE (Lin 2004): the mean over answers of the F-measure with the best reference, from 0 to 1, as rouge-score 0.1.2 computes it.
//!
//! Lower case; words are runs of `a-z0-9`; with [`Settings::stem`], words of more than three letters are compared by their stems.

use std::collections::{BTreeSet, HashMap};

use super::Answer;
use crate::Settings;
use crate::text::ngrams::{counts, overlap};
use crate::text::{lcs, porter};

pub(super) const ABOUT_1: &str = "F-measure of words, 0 to 1 (rouge-score's rouge1)";
pub(super) const ABOUT_2: &str = "F-measure of pairs of words, 0 to 1 (rouge-score's rouge2)";
pub(super) const ABOUT_L: &str = "F-measure of the longest common subsequence of words, 0 to 1 (rouge-score's rougeL)";
pub(super) const ABOUT_LSUM: &str = "the same line by line, for summaries, 0 to 1 (rouge-score's rougeLsum)";

pub(super) fn rouge_1(answers: &[Answer], settings: &Settings) -> f64 {
    mean(answers, settings, whole, |reference, answer| {
        of_ngrams(reference, answer, 1)
    })
}

pub(super) fn rouge_2(answers: &[Answer], settings: &Settings) -> f64 {
    mean(answers, settings, whole, |reference, answer| {
        of_ngrams(reference, answer, 2)
    })
}

pub(super) fn rouge_l(answers: &[Answer], settings: &Settings) -> f64 {
    mean(answers, settings, whole, |reference, answer| {
        f_measure(lcs::length(reference, answer), reference.len(), answer.len())
    })
}

pub(super) fn rouge_lsum(answers: &[Answer], settings: &Settings) -> f64 {
    mean(answers, settings, lines, |reference, answer| {
        of_lines(reference, answer)
    })
}

/// The mean over answers of the best `score` with any reference; `cut` makes what is compared of a text.
fn mean<T>(
    answers: &[Answer],
    settings: &Settings,
    cut: impl Fn(&mut Words, &str) -> Vec<T>,
    score: impl Fn(&[T], &[T]) -> f64,
) -> f64 {
    super::mean(answers, |answer| {
        let mut words = Words::new(settings.stem);
        let hypothesis = cut(&mut words, &answer.hypothesis);
        let references = answer.references.iter();
        references
            .map(|reference| score(&cut(&mut words, reference), &hypothesis))
            .fold(0.0, f64::max)
    })
}

fn whole(words: &mut Words, text: &str) -> Vec<usize> {
    words.of(text)
}

fn lines(words: &mut Words, text: &str) -> Vec<Vec<usize>> {
    text.split('\n').map(|line| words.of(line)).collect()
}

/// Words by number, the same number for the same word or stem.
struct Words {
    known: HashMap<String, usize>,
    stem: bool,
}

impl Words {
    fn new(stem: bool) -> Self {
        Self {
            known: HashMap::new(),
            stem,
        }
    }

    fn of(&mut self, text: &str) -> Vec<usize> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
        let stems = words.map(|word| match self.stem && word.len() > 3 {
            true => porter::stem(word),
            false => word.to_string(),
        });
        let mut number = |word| {
            let next = self.known.len();
            *self.known.entry(word).or_insert(next)
        };
        stems.filter(|word| !word.is_empty()).map(&mut number).collect()
    }
}

fn of_ngrams(reference: &[usize], answer: &[usize], n: usize) -> f64 {
    let matched = overlap(&counts(reference, n), &counts(answer, n));
    let count = |tokens: &[usize]| (tokens.len() + 1).saturating_sub(n);
    f_measure(matched, count(reference), count(answer))
}

/// Section 3.2 of the paper: of each line of the reference the words that any line of the answer has in order, each word as often as
/// both texts hold it.
fn of_lines(reference: &[Vec<usize>], answer: &[Vec<usize>]) -> f64 {
    let mut left = [frequencies(reference), frequencies(answer)];
    let mut hits = 0;
    for line in reference {
        let union: BTreeSet<usize> = answer.iter().flat_map(|other| lcs::indices(line, other)).collect();
        for index in union {
            if left
                .iter()
                .all(|counts| counts.get(&line[index]).is_some_and(|count| *count > 0))
            {
                hits += 1;
                left.iter_mut()
                    .for_each(|counts| *counts.entry(line[index]).or_insert(1) -= 1);
            }
        }
    }
    let words = |lines: &[Vec<usize>]| lines.iter().map(Vec::len).sum();
    f_measure(hits, words(reference), words(answer))
}

fn frequencies(lines: &[Vec<usize>]) -> HashMap<usize, usize> {
    let mut counts = HashMap::new();
    lines
        .iter()
        .flatten()
        .for_each(|word| *counts.entry(*word).or_insert(0) += 1);
    counts
}

fn f_measure(matched: usize, reference: usize, answer: usize) -> f64 {
    if matched == 0 {
        return 0.0;
    }
    let (precision, recall) = (matched as f64 / answer as f64, matched as f64 / reference as f64);
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn order_counts_and_the_best_reference_does() {
        // The example of the paper's section 3.1: police kill the gunman / the gunman kill police.
        let rouge_l = |answers: &[Answer]| rouge_l(answers, &Settings::default());
        assert_eq!(
            rouge_l(&[answer("police kill the gunman", &["police killed the gunman"])]),
            0.75
        );
        assert_eq!(
            rouge_l(&[answer("the gunman kill police", &["police killed the gunman"])]),
            0.5
        );
        assert_eq!(rouge_l(&[answer("A b!", &["x", "a, B"]), answer("", &["a"])]), 0.5);
    }

    #[test]
    fn the_union_over_lines() {
        // The example of section 3.2: w1 w2 w3 w4 w5 against w1 w2 w6 w7 w8 and w1 w3 w8 w9 w5 has w1 w2 w3 w5 in common.
        let answers = [answer("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", &["w1 w2 w3 w4 w5"])];
        let (precision, recall) = (4.0 / 10.0, 4.0 / 5.0);
        let expected: f64 = 2.0 * precision * recall / (precision + recall);
        assert!((rouge_lsum(&answers, &Settings::default()) - expected).abs() < 1e-12);
    }

    #[test]
    fn stems_make_inflections_equal() {
        let answers = [answer("The cats were running", &["the cat was run"])];
        let stems = Settings {
            stem: true,
            ..Settings::default()
        };
        assert_eq!(
            (rouge_1(&answers, &Settings::default()), rouge_1(&answers, &stems)),
            (0.25, 0.75)
        );
    }
}
