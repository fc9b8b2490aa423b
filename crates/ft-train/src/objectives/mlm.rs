//! Masked language modelling (Devlin et al. 2018, arXiv:1810.04805, section 3.1): an encoder says which tokens stand in hidden places.
//!
//! ```text
//! L = - Σ log p(token | the text with tokens hidden) / number of hidden tokens
//! ```
//!
//! Of what is hidden, 80 % show the mask token, 10 % a token drawn from the vocabulary, 10 % themselves; special tokens are not hidden,
//! and of every text at least one token is. What is hidden changes from step to step, and is a function of the seed, the step and the
//! text; held-out texts always hide the same. The head is that of transformers' `...ForMaskedLM`, and the checkpoint must hold it.

use std::sync::Arc;

use ft_data::{Batch, Masking};
use ft_model::{Model, ModelConfig};
use ft_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Unit, check, nll_sum, plain_hidden, read};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

/// Options of masked language modelling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlmConfig {
    /// Share of the tokens that are hidden (`mlm_probability`).
    pub mask_probability: f64,
}

impl Default for MlmConfig {
    fn default() -> Self {
        Self { mask_probability: 0.15 }
    }
}

impl ObjectiveKind for MlmConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = check::share("mask_probability", self.mask_probability);
        wrong.extend(check::positive("mask_probability", self.mask_probability));
        wrong
    }

    fn masks(&self, _: &ModelConfig) -> bool {
        true
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
        Ok(Arc::new(Mlm {
            masking: given.masking(self.mask_probability)?,
        }))
    }
}

#[derive(Debug)]
struct Mlm {
    masking: Masking,
}

impl Objective for Mlm {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn begin(&self, _: &Model, step: &StepBatch, _: &Ranks) -> Result<Option<StepBatch>> {
        Ok(Some(step.with(|batch| self.masking.in_step(batch, step.step))))
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        LossFn::new(|model, hidden| Loss {
            sum: nll_sum(model, hidden, &micro.batch, 0.0),
            figures: Vec::new(),
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let batch = &self.masking.held_out(batch);
        let count = batch.target_tokens();
        let nll = read(nll_sum(model, plain_hidden(model, batch), batch, 0.0));
        HeldOut {
            loss: nll,
            count,
            nll: Some((nll, count)),
            ..HeldOut::default()
        }
    }
}
