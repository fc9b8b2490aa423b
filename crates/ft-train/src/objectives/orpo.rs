//! Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691, eqs. 6 and 7): supervised fine-tuning on the chosen
//! answers with a term that makes the rejected ones less likely. It needs no reference.
//!
//! ```text
//! p(y|x) = exp of the mean log-probability of the answer's tokens      odds(y|x) = p / (1 - p)
//! L = NLL(y⁺) - β log σ(log odds(y⁺|x)/odds(y⁻|x))
//! ```
//!
//! NLL is the mean over all tokens of all chosen answers of a step, as in `sft`; the second term is a mean over pairs.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check;
use super::pairs::{Judged, PairLoss, Pairs};

/// Options of ORPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OrpoConfig {
    /// Weight of the odds ratio, the paper's λ.
    pub beta: f64,
}

impl Default for OrpoConfig {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl PairLoss for OrpoConfig {
    fn check(&self) -> Vec<String> {
        check::positive("beta", self.beta)
    }

    fn judge(&self, pairs: &Pairs) -> Judged {
        let [chosen, rejected] = pairs.means();
        let log_odds = chosen.clone()
            - rejected.clone()
            - (log_one_minus_exp(chosen.clone()) - log_one_minus_exp(rejected.clone()));
        let ratio = log_sigmoid(log_odds.clone());
        Judged {
            losses: ratio.clone().mul_scalar(-self.beta),
            rewards: [chosen, rejected].map(|mean| mean.mul_scalar(self.beta)),
            figures: vec![("log_odds_chosen", log_odds), ("log_odds_ratio", ratio)],
        }
    }

    fn sft_weight(&self) -> f64 {
        1.0
    }
}

/// log(1 - eˣ) for x < 0; an answer of probability 1 counts as one of probability 1 - 1e-6, where this is finite.
fn log_one_minus_exp(x: Tensor<1>) -> Tensor<1> {
    (x.clamp_max(-1e-6).exp().neg()).log1p()
}
