//! BLEU (Papineni et al. 2002) of a corpus, from 0 to 100, as sacrebleu computes it by default: tokenization 13a, up to 4-grams,
//! several references, exponential smoothing, mixed case (signature `nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp`).

use std::collections::HashMap;

use super::Answer;

pub(super) const ABOUT: &str = "corpus BLEU, 0 to 100 (sacrebleu's default: 13a, exponential smoothing)";

/// Longest n-gram.
const ORDER: usize = 4;

/// What the score is computed from, summed over the corpus.
#[derive(Default)]
struct Counts {
    matched: [usize; ORDER],
    total: [usize; ORDER],
    hypothesis: usize,
    reference: usize,
}

pub(super) fn compute(answers: &[Answer]) -> f64 {
    let mut counts = Counts::default();
    answers.iter().for_each(|answer| counts.add(answer));
    counts.score()
}

impl Counts {
    fn add(&mut self, answer: &Answer) {
        let hypothesis = tokenize(&answer.hypothesis);
        let references: Vec<Vec<String>> = answer.references.iter().map(|text| tokenize(text)).collect();
        self.hypothesis += hypothesis.len();
        self.reference += closest(hypothesis.len(), references.iter().map(Vec::len));
        for n in 1..=ORDER {
            let allowed = most(references.iter().map(|reference| ngrams(reference, n)));
            for (gram, count) in ngrams(&hypothesis, n) {
                self.total[n - 1] += count;
                self.matched[n - 1] += count.min(allowed.get(gram).copied().unwrap_or(0));
            }
        }
    }

    fn score(&self) -> f64 {
        if self.matched.iter().all(|matched| *matched == 0) || self.total.contains(&0) {
            return 0.0;
        }
        // Every order without a match counts as half the match of the one before it: 1/2, 1/4, ...
        let mut share = 1.0;
        let log_precision = |(&matched, &total): (&usize, &usize)| {
            let matched = if matched > 0 {
                matched as f64
            } else {
                share /= 2.0;
                share
            };
            (100.0 * matched / total as f64).ln()
        };
        let mean = self.matched.iter().zip(&self.total).map(log_precision).sum::<f64>() / ORDER as f64;
        self.brevity() * mean.exp()
    }

    /// Answers shorter than the references lose; the n-gram precisions alone would favour them.
    fn brevity(&self) -> f64 {
        match self.hypothesis < self.reference {
            true => (1.0 - self.reference as f64 / self.hypothesis as f64).exp(),
            false => 1.0,
        }
    }
}

/// The reference length closest to `length`; the shorter of two equally close.
fn closest(length: usize, references: impl Iterator<Item = usize>) -> usize {
    references
        .min_by_key(|reference| (reference.abs_diff(length), *reference))
        .unwrap_or(0)
}

/// The n-grams of a text and how often each occurs.
fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    tokens.windows(n).for_each(|gram| *counts.entry(gram).or_insert(0) += 1);
    counts
}

/// Of every n-gram the largest count in any one reference.
fn most<'a>(references: impl Iterator<Item = HashMap<&'a [String], usize>>) -> HashMap<&'a [String], usize> {
    let mut most = HashMap::new();
    for (gram, count) in references.flatten() {
        let held = most.entry(gram).or_insert(0);
        *held = count.max(*held);
    }
    most
}

/// Tokenization 13a of NIST's mteval-v13a: punctuation apart from words, but for periods, commas inside numbers and hyphens.
fn tokenize(text: &str) -> Vec<String> {
    let text = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    let text = text
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let mut text: Vec<char> = format!(" {text} ").chars().collect();
    text = apart(&text);
    text = split_pairs(
        &text,
        |a, b| !a.is_ascii_digit() && matches!(b, '.' | ','),
        |a, b| [a, ' ', b, ' '],
    );
    text = split_pairs(
        &text,
        |a, b| matches!(a, '.' | ',') && !b.is_ascii_digit(),
        |a, b| [' ', a, ' ', b],
    );
    text = split_pairs(&text, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    text.into_iter()
        .collect::<String>()
        .split_whitespace()
        .map(str::to_string)
        .collect()
}

/// ASCII punctuation but `'`, `,`, `-` and `.` becomes a token of its own.
fn apart(text: &[char]) -> Vec<char> {
    let punctuation = |c: char| c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.');
    text.iter()
        .flat_map(|&c| if punctuation(c) { vec![' ', c, ' '] } else { vec![c] })
        .collect()
}

/// Replaces neighbours that match, from left to right; both are used up, as in a regular expression's substitution.
fn split_pairs(
    text: &[char],
    matches: impl Fn(char, char) -> bool,
    replace: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut result = Vec::with_capacity(text.len() * 2);
    let mut rest = text;
    while let [a, tail @ ..] = rest {
        match tail {
            [b, after @ ..] if matches(*a, *b) => {
                result.extend(replace(*a, *b));
                rest = after;
            }
            _ => {
                result.push(*a);
                rest = tail;
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn tokens_of_13a() {
        let tokens = |text: &str| tokenize(text).join(" ");
        assert_eq!(
            tokens("It's 3.5%, or 1,000-2 (not &quot;x&quot;)..."),
            "It's 3.5 % , or 1,000 - 2 ( not \" x \" ) . . ."
        );
        assert_eq!(tokens("well-known end-\nings\nhere.  "), "well-known endings here .");
    }

    #[test]
    fn equal_is_100_and_foreign_is_0() {
        let text = "the cat sat on the mat";
        assert!((compute(&[answer(text, &["a dog", text])]) - 100.0).abs() < 1e-9);
        assert_eq!(compute(&[answer("x y z w", &[text])]), 0.0);
        assert_eq!(compute(&[answer("", &[text])]), 0.0);
        assert_eq!(compute(&[answer("the cat", &["the cat"])]), 0.0, "no 4-gram at all");
    }
}
