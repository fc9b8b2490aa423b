//! Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), its conservative form for labels that are
//! wrong with probability ε (Mitchell 2023), the unbiased one (robust DPO, Chowdhury et al. 2024, arXiv:2403.00409, eq. 12) and the hinge
//! of SLiC (Zhao et al. 2023, arXiv:2305.10425).
//!
//! ```text
//! h = log π(y⁺|x)/π_ref(y⁺|x) - log π(y⁻|x)/π_ref(y⁻|x)      log π(y|x): summed over the tokens of the answer
//! sigmoid   L = -(1-ε) log σ(βh) - ε log σ(-βh)
//! robust    L = (-(1-ε) log σ(βh) + ε log σ(-βh)) / (1 - 2ε)
//! hinge     L = max(0, 1 - βh)
//! ```
//!
//! The loss is a mean over pairs; `sft_weight` adds that much of the mean negative log-likelihood of the chosen answers' tokens.

use burn::tensor::activation::log_sigmoid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{Judged, PairLoss, Pairs};
use super::{Reference, check};

/// Options of DPO; the names in parentheses are TRL's where they differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// How far the model may go from the reference: the smaller, the farther.
    pub beta: f64,
    /// Which form of the loss (`loss_type`).
    pub loss: DpoLoss,
    /// Probability ε that a pair is the wrong way round, for `sigmoid` and `robust`.
    pub label_smoothing: f64,
    /// Weight of the negative log-likelihood of the chosen answers (`loss_type = ["sigmoid", "sft"]` with `loss_weights`).
    pub sft_weight: f64,
    /// The model to measure against: `"base"` (the adapter off), or a folder (`ref_model`).
    pub reference: Reference,
    /// Ask the reference once before the first step, and not at every step: it takes no memory then while the run trains.
    pub precompute_ref_log_probs: bool,
}

/// A form of DPO's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DpoLoss {
    /// The paper's.
    #[default]
    Sigmoid,
    /// A margin of 1/β.
    Hinge,
    /// Unbiased under wrong labels.
    Robust,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss: DpoLoss::Sigmoid,
            label_smoothing: 0.0,
            sft_weight: 0.0,
            reference: Reference::Base,
            precompute_ref_log_probs: false,
        }
    }
}

impl PairLoss for DpoConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = check::positive("beta", self.beta);
        wrong.extend(check::at_least_zero("sft_weight", self.sft_weight));
        wrong.extend(check::below("label_smoothing", self.label_smoothing, 0.5));
        if self.loss == DpoLoss::Hinge && self.label_smoothing != 0.0 {
            wrong.push("objective.label_smoothing: goes with loss = \"sigmoid\" and \"robust\" only".into());
        }
        wrong
    }

    fn reference(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn asks_once(&self) -> bool {
        self.precompute_ref_log_probs
    }

    fn judge(&self, pairs: &Pairs) -> Judged {
        let rewards = pairs.rewards(self.beta);
        let scaled = rewards[0].clone() - rewards[1].clone(); // βh
        let epsilon = self.label_smoothing;
        let losses = match self.loss {
            DpoLoss::Hinge => (scaled.neg() + 1.0).clamp_min(0.0),
            DpoLoss::Sigmoid if epsilon == 0.0 => log_sigmoid(scaled).neg(),
            DpoLoss::Sigmoid => {
                let flipped = log_sigmoid(scaled.clone().neg()).mul_scalar(epsilon);
                (log_sigmoid(scaled).mul_scalar(1.0 - epsilon) + flipped).neg()
            }
            DpoLoss::Robust => {
                let flipped = log_sigmoid(scaled.clone().neg()).mul_scalar(epsilon);
                (flipped - log_sigmoid(scaled).mul_scalar(1.0 - epsilon)).div_scalar(1.0 - 2.0 * epsilon)
            }
        };
        Judged {
            losses,
            rewards,
            figures: Vec::new(),
        }
    }

    fn sft_weight(&self) -> f64 {
        self.sft_weight
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    /// A fresh adapter says what the reference says, to the bit: the log-ratios are 0 exactly, where the slope is that beside it.
    #[test]
    fn the_first_gradient_of_a_fresh_adapter_is_half_of_beta() {
        let slope = |away: f32, smoothing: f64| {
            let device = Device::flex().autodiff();
            let given = |value: f32| Tensor::<1>::from_floats([value], &device);
            let chosen = given(-3.0 + away).require_grad();
            let pairs = Pairs {
                chosen: chosen.clone(),
                rejected: given(-5.0),
                reference: Some([given(-3.0), given(-5.0)]),
                tokens: [given(2.0), given(2.0)],
            };
            let options = DpoConfig {
                label_smoothing: smoothing,
                ..DpoConfig::default()
            };
            let gradients = options.judge(&pairs).losses.sum().backward();
            chosen.grad(&gradients).unwrap().into_scalar::<f32>()
        };
        for away in [0.0, 1e-3, -1e-3] {
            assert!((slope(away, 0.0) + 0.05).abs() < 1e-5, "{away}: {}", slope(away, 0.0));
            assert!((slope(away, 0.1) + 0.04).abs() < 1e-5, "{away}: {}", slope(away, 0.1));
        }
    }
}
