//! Elastic weight consolidation with one anchor: the values after the last task, and a Fisher information that fades.
//!
//! ```text
//! L = L_task + λ/2 Σ_i F_i (θ_i - θ*_i)²        when a task ends:  F <- γ F + F_task,  θ* <- θ
//! ```
//!
//! Schwarz et al. 2018, arXiv:1805.06370, section 3.2. F is per target token, as in `ewc`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ewc::{COPIES, Consolidation};
use super::{Copies, EwcConfig, FisherKind, Setting, Strategy, StrategyKind};

/// Options of online elastic weight consolidation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnlineEwcConfig {
    /// λ: weight of the penalty.
    pub lambda: f64,
    /// γ: what of the Fisher information of earlier tasks stays when a task ends, from 0 to 1.
    pub gamma: f64,
    /// Whose answers the Fisher information is of.
    pub fisher: FisherKind,
    /// Samples of a task that it is estimated from, one by one.
    pub fisher_samples: usize,
}

impl Default for OnlineEwcConfig {
    fn default() -> Self {
        let EwcConfig {
            lambda,
            fisher,
            fisher_samples,
        } = EwcConfig::default();
        Self {
            lambda,
            gamma: 0.95,
            fisher,
            fisher_samples,
        }
    }
}

impl OnlineEwcConfig {
    fn ewc(self) -> EwcConfig {
        EwcConfig {
            lambda: self.lambda,
            fisher: self.fisher,
            fisher_samples: self.fisher_samples,
        }
    }
}

impl StrategyKind for OnlineEwcConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = self.ewc().check();
        if !(0.0..=1.0).contains(&self.gamma) {
            wrong.push("continual.gamma: must be a number from 0 to 1".into());
        }
        wrong
    }

    fn needs_likelihood(&self) -> bool {
        true
    }

    fn copies(&self, _: usize) -> Copies {
        COPIES
    }

    fn build(&self, setting: Setting) -> Box<dyn Strategy> {
        Box::new(Consolidation::new(self.ewc(), Some(self.gamma), setting))
    }
}
