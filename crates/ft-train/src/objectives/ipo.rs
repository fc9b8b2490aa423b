//! Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17).
//!
//! ```text
//! h = log π(y⁺|x)/π_ref(y⁺|x) - log π(y⁻|x)/π_ref(y⁻|x)      each term divided by the tokens of its answer
//! L = (h - 1/(2β))²
//! ```
//!
//! The division is TRL's (confirmed there with the paper's authors): sums would make the square grow with the length of the answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{Judged, PairLoss, Pairs};
use super::{Reference, check};

/// Options of IPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IpoConfig {
    /// Strength of the regularization, the paper's τ: the log-ratio of a pair is drawn to 1/(2β) nats per token.
    pub beta: f64,
    /// The model to measure against: `"base"` (the adapter off), or a folder.
    pub reference: Reference,
    /// Ask the reference once before the first step, and not at every step: it takes no memory then while the run trains.
    pub precompute_ref_log_probs: bool,
}

impl Default for IpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            reference: Reference::Base,
            precompute_ref_log_probs: false,
        }
    }
}

impl PairLoss for IpoConfig {
    fn check(&self) -> Vec<String> {
        check::positive("beta", self.beta)
    }

    fn reference(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn asks_once(&self) -> bool {
        self.precompute_ref_log_probs
    }

    fn judge(&self, pairs: &Pairs) -> Judged {
        let [chosen, rejected] = pairs.ratios();
        let [chosen_tokens, rejected_tokens] = pairs.tokens.clone();
        let apart = chosen / chosen_tokens - rejected / rejected_tokens - 1.0 / (2.0 * self.beta);
        Judged {
            losses: apart.powi_scalar(2),
            rewards: pairs.rewards(self.beta),
            figures: Vec::new(),
        }
    }
}
