//! BLEU (Papineni et al. 2002), from 0 to 100, as sacreBLEU 2.6.0 computes it: up to 4-grams, several references, its tokenizers
//! and smoothings.

use super::{Answer, signature};
use crate::text::ngrams::{counts, most, overlap};
use crate::{Settings, Smoothing};

pub(super) const ABOUT: &str = "corpus BLEU, 0 to 100 (sacreBLEU's)";
pub(super) const ABOUT_SENTENCE: &str = "mean over answers of sentence BLEU, 0 to 100 (sacreBLEU's sentence_bleu)";

/// Longest n-gram.
const ORDER: usize = 4;

/// sacreBLEU's logarithm of 0: e to a fourth of it is 0.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// What the score is computed from, summed over the corpus.
#[derive(Default)]
struct Statistics {
    matched: [usize; ORDER],
    total: [usize; ORDER],
    hypothesis: usize,
    reference: usize,
}

/// BLEU of all answers together.
pub(super) fn corpus(answers: &[Answer], settings: &Settings) -> f64 {
    let mut statistics = Statistics::default();
    answers.iter().for_each(|answer| statistics.add(answer, settings));
    statistics.score(settings.smoothing, false)
}

/// The mean of each answer's BLEU over the orders that it is long enough for (`effective_order`).
pub(super) fn mean_of_sentences(answers: &[Answer], settings: &Settings) -> f64 {
    let score = |answer: &Answer| {
        let mut statistics = Statistics::default();
        statistics.add(answer, settings);
        statistics.score(settings.smoothing, true)
    };
    super::mean(answers, score)
}

pub(super) fn corpus_signature(answers: &[Answer], settings: &Settings) -> String {
    signed(answers, settings, "no")
}

pub(super) fn sentence_signature(answers: &[Answer], settings: &Settings) -> String {
    signed(answers, settings, "yes")
}

fn signed(answers: &[Answer], settings: &Settings, effective_order: &str) -> String {
    let (tokenizer, smoothing) = (settings.tokenizer, settings.smoothing);
    let rest = format!("eff:{effective_order}|tok:{tokenizer}|smooth:{smoothing}");
    signature(answers, settings.lowercase, &rest)
}

impl Statistics {
    fn add(&mut self, answer: &Answer, settings: &Settings) {
        let tokens = |text: &String| match settings.lowercase {
            true => settings.tokenizer.tokens(&text.to_lowercase()),
            false => settings.tokenizer.tokens(text),
        };
        let hypothesis = tokens(&answer.hypothesis);
        let references: Vec<Vec<String>> = answer.references.iter().map(tokens).collect();
        self.hypothesis += hypothesis.len();
        self.reference += closest(hypothesis.len(), references.iter().map(Vec::len));
        for n in 1..=ORDER {
            let allowed = most(references.iter().map(|reference| counts(reference, n)));
            self.total[n - 1] += (hypothesis.len() + 1).saturating_sub(n);
            self.matched[n - 1] += overlap(&counts(&hypothesis, n), &allowed);
        }
    }

    fn score(&self, smoothing: Smoothing, effective_order: bool) -> f64 {
        if self.matched.iter().all(|matched| *matched == 0) {
            return 0.0;
        }
        let precisions = self.precisions(smoothing);
        // Without `effective_order`, an order that no answer is long enough for counts as no match.
        let orders = if effective_order { precisions.len() } else { ORDER };
        let log = |p: &f64| if *p == 0.0 { LOG_OF_ZERO } else { p.ln() };
        let absent = (orders - precisions.len()) as f64 * LOG_OF_ZERO;
        let mean = (precisions.iter().map(log).sum::<f64>() + absent) / orders as f64;
        self.brevity() * mean.exp()
    }

    /// Smoothed precisions in percent, up to the longest n-gram that there is.
    fn precisions(&self, smoothing: Smoothing) -> Vec<f64> {
        let mut precisions = Vec::with_capacity(ORDER);
        let mut share = 1.0;
        for (n, (&matched, &total)) in self.matched.iter().zip(&self.total).enumerate() {
            let (mut matched, mut total) = (matched as f64, total as f64);
            if let Smoothing::AddK(k) = smoothing
                && n > 0
            {
                (matched, total) = (matched + k, total + k);
            }
            if total == 0.0 {
                break;
            }
            precisions.push(match smoothing {
                _ if matched > 0.0 => 100.0 * matched / total,
                Smoothing::Exp => {
                    share *= 2.0;
                    100.0 / (share * total)
                }
                Smoothing::Floor(value) => 100.0 * value / total,
                Smoothing::AddK(_) | Smoothing::None => 0.0,
            });
        }
        precisions
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    fn compute(answers: &[Answer]) -> f64 {
        corpus(answers, &Settings::default())
    }

    #[test]
    fn equal_is_100_and_foreign_is_0() {
        let text = "the cat sat on the mat";
        assert!((compute(&[answer(text, &["a dog", text])]) - 100.0).abs() < 1e-9);
        assert_eq!(compute(&[answer("x y z w", &[text])]), 0.0);
        assert_eq!(compute(&[answer("", &[text])]), 0.0);
        let short = [answer("the cat", &["the cat"])];
        assert_eq!(compute(&short), 0.0, "no 4-gram at all");
        assert!((mean_of_sentences(&short, &Settings::default()) - 100.0).abs() < 1e-9);
    }
}
