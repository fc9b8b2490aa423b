//! Perplexity: e to the mean negative log-likelihood of a token, a word or a byte of the target text.
//!
//! Words and bytes do not depend on the tokenizer, so that models with different ones can be compared. As in lm-evaluation-harness,
//! words lie between white space, bytes are UTF-8, and the likelihood is that of all target tokens, the one that ends a text included.

use crate::Likelihood;

pub(super) const ABOUT: &str = "e to the mean negative log-likelihood per target token";
pub(super) const ABOUT_WORD: &str = "the same per word of the target text, comparable between tokenizers";
pub(super) const ABOUT_BYTE: &str = "the same per byte of the target text";
pub(super) const ABOUT_BITS: &str = "the negative log-likelihood in bits per byte of the target text";

pub(super) fn of_tokens(likelihood: &Likelihood) -> f64 {
    likelihood.evaluation.perplexity()
}

pub(super) fn of_words(likelihood: &Likelihood) -> f64 {
    (likelihood.evaluation.nll_sum / likelihood.words as f64).exp()
}

pub(super) fn of_bytes(likelihood: &Likelihood) -> f64 {
    (likelihood.evaluation.nll_sum / likelihood.bytes as f64).exp()
}

pub(super) fn bits(likelihood: &Likelihood) -> f64 {
    likelihood.evaluation.nll_sum / likelihood.bytes as f64 / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Evaluation;

    #[test]
    fn four_units_of_one_likelihood() {
        let likelihood = Likelihood {
            evaluation: Evaluation {
                nll_sum: 8.0 * std::f64::consts::LN_2,
                tokens: 4,
                samples: 1,
            },
            words: 2,
            bytes: 8,
        };
        let found = [of_tokens, of_words, of_bytes, bits].map(|of| of(&likelihood));
        for (found, expected) in found.into_iter().zip([4.0, 16.0, 2.0, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }
}
