//! Perplexity: e to the mean negative log-likelihood of a target token.

use crate::Evaluation;

pub(super) const ABOUT: &str = "e to the mean negative log-likelihood per target token";

pub(super) fn compute(evaluation: &Evaluation) -> f64 {
    evaluation.perplexity()
}
