//! Simple preference optimization (Meng et al. 2024, arXiv:2405.14734, eq. 6): the reward is the mean log-probability of the
//! answer's tokens, and a pair must be γ apart. It needs no reference.
//!
//! ```text
//! L = -log σ(β/|y⁺| log π(y⁺|x) - β/|y⁻| log π(y⁻|x) - γ)
//! ```

use burn::tensor::activation::log_sigmoid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check;
use super::pairs::{Judged, PairLoss, Pairs};

/// Options of SimPO; the names in parentheses are TRL's where they differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SimpoConfig {
    /// Scale of the rewards; the paper uses 2 to 2.5.
    pub beta: f64,
    /// Margin γ between the rewards of a pair (`simpo_gamma`).
    pub gamma: f64,
    /// Weight of the negative log-likelihood of the chosen answers (`cpo_alpha`).
    pub sft_weight: f64,
}

impl Default for SimpoConfig {
    fn default() -> Self {
        Self {
            beta: 2.0,
            gamma: 0.5,
            sft_weight: 0.0,
        }
    }
}

impl PairLoss for SimpoConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = check::positive("beta", self.beta);
        wrong.extend(check::at_least_zero("gamma", self.gamma));
        wrong.extend(check::at_least_zero("sft_weight", self.sft_weight));
        wrong
    }

    fn judge(&self, pairs: &Pairs) -> Judged {
        let rewards = pairs.means().map(|mean| mean.mul_scalar(self.beta));
        let margin = rewards[0].clone() - rewards[1].clone() - self.gamma;
        Judged {
            losses: log_sigmoid(margin).neg(),
            rewards,
            figures: Vec::new(),
        }
    }

    fn sft_weight(&self) -> f64 {
        self.sft_weight
    }
}
