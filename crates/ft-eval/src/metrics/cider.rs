//! CIDEr (Vedantam et al. 2015, arXiv:1411.5726), from 0 up (10 is every n-gram of a single reference), as the caption metrics and the
//! E2E challenge compute it (CIDEr-D's clipping and penalty for length; pycocoevalcap 1.2): the cosine between answer and reference
//! in n-grams up to 4, weighted by how few prompts have them in a reference, the mean over references and answers.
//!
//! The weights come from the references of the corpus, so that a single answer scores 0.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Answer;
use crate::Settings;
use crate::text::{ptb, python};

pub(super) const ABOUT: &str = "CIDEr-D, 0 and up (pycocoevalcap's, the E2E challenge's)";

/// Longest n-gram.
const ORDER: usize = 4;
/// Standard deviation of the penalty for a difference in length.
const SIGMA: f64 = 6.0;

pub(super) fn compute(answers: &[Answer], _: &Settings) -> f64 {
    let (hypotheses, references) = words(answers);
    let (hypotheses, references) = (split(hypotheses), split(references));
    let mut rest = references.as_slice();
    let mut prompts = Vec::new();
    for answer in answers {
        let (own, others) = rest.split_at(answer.references.len());
        prompts.push(own);
        rest = others;
    }
    let weights = Weights::new(&prompts);
    let scores = hypotheses
        .iter()
        .zip(&prompts)
        .map(|(hypothesis, references)| weights.score(hypothesis, references));
    scores.sum::<f64>() / answers.len().max(1) as f64
}

/// The words of the answers, and those of all references one after the other.
pub(super) fn words(answers: &[Answer]) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let hypotheses: Vec<&str> = answers.iter().map(|answer| answer.hypothesis.as_str()).collect();
    let references = answers.iter().flat_map(|answer| &answer.references).map(String::as_str);
    (ptb::words(&hypotheses), ptb::words(&references.collect::<Vec<_>>()))
}

/// Cut at no-break spaces too, as Python's `split` does.
fn split(texts: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let cut = |words: Vec<String>| {
        words
            .iter()
            .flat_map(|word| python::words(word))
            .map(str::to_string)
            .collect()
    };
    texts.into_iter().map(cut).collect()
}

/// In how many prompts' references an n-gram occurs.
struct Weights<'a> {
    prompts: HashMap<&'a [String], usize>,
    count: usize,
}

/// A text as a vector for each order of n-grams.
struct Vector<'a> {
    orders: Vec<BTreeMap<&'a [String], f64>>,
    norms: Vec<f64>,
    /// Pairs of words.
    length: usize,
}

impl<'a> Weights<'a> {
    fn new(prompts: &[&'a [Vec<String>]]) -> Self {
        let mut counts = HashMap::new();
        for references in prompts {
            let grams = references
                .iter()
                .flat_map(|words| (1..=ORDER).flat_map(|n| words.windows(n)));
            for gram in grams.collect::<HashSet<_>>() {
                *counts.entry(gram).or_insert(0) += 1;
            }
        }
        Self {
            prompts: counts,
            count: prompts.len(),
        }
    }

    fn vector<'b>(&self, words: &'b [String]) -> Vector<'b> {
        let weight = |gram: &[String]| {
            let prompts = self.prompts.get(gram).copied().unwrap_or(1);
            (self.count as f64).ln() - (prompts as f64).ln()
        };
        let order = |n| {
            let mut counts: BTreeMap<&[String], f64> = BTreeMap::new();
            words
                .windows(n)
                .for_each(|gram| *counts.entry(gram).or_insert(0.0) += 1.0);
            counts.iter_mut().for_each(|(gram, count)| *count *= weight(gram));
            counts
        };
        let orders: Vec<_> = (1..=ORDER).map(order).collect();
        let norm = |order: &BTreeMap<_, f64>| order.values().map(|value| value * value).sum::<f64>().sqrt();
        Vector {
            norms: orders.iter().map(norm).collect(),
            orders,
            length: words.len().saturating_sub(1),
        }
    }

    fn score(&self, hypothesis: &[String], references: &[Vec<String>]) -> f64 {
        let hypothesis = self.vector(hypothesis);
        let similarities = references
            .iter()
            .map(|words| hypothesis.similarity(&self.vector(words)));
        10.0 * similarities.sum::<f64>() / references.len().max(1) as f64
    }
}

impl Vector<'_> {
    /// The mean over the orders of the cosine, where no n-gram counts more often than in the reference.
    fn similarity(&self, reference: &Vector<'_>) -> f64 {
        let cosine = |n: usize| {
            let shared = self.orders[n]
                .iter()
                .filter_map(|(gram, value)| Some((value, reference.orders[n].get(gram)?)));
            let product: f64 = shared.map(|(value, other)| value.min(*other) * other).sum();
            let norms = self.norms[n] * reference.norms[n];
            if norms == 0.0 { product } else { product / norms }
        };
        let difference = self.length as f64 - reference.length as f64;
        let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        (0..ORDER).map(cosine).sum::<f64>() * penalty / ORDER as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn what_every_prompt_has_says_nothing() {
        let score = |answers: &[Answer]| compute(answers, &Settings::default());
        let other = answer("a red hat", &["two blue and green shoes"]);
        let perfect = score(&[
            answer("the old mill by the river", &["the old mill by the river"]),
            other.clone(),
        ]);
        assert!((perfect - 5.0).abs() < 1e-9, "10 and 0: {perfect}");
        assert_eq!(
            score(&[answer("the mill", &["the mill"])]),
            0.0,
            "one prompt has every n-gram"
        );
        let common = score(&[answer("the", &["the pub"]), answer("hat", &["the shoes"])]);
        assert_eq!(common, 0.0);
    }
}
