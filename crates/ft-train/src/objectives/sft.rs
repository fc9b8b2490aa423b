//! Supervised fine-tuning: the mean negative log-likelihood of the target tokens, in nats.
//!
//! ```text
//! L = - Σ log p(token | tokens before it) / number of target tokens
//! ```

use std::sync::Arc;

use ft_data::Batch;
use ft_model::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weighted::Weighted;
use super::{Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Unit, check, nll_sum};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

/// Options of supervised fine-tuning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Share of every target that is spread over the whole vocabulary, in training alone: evaluations stay plain. 0.1 is
    /// common; 0 is off.
    pub label_smoothing: f64,
    /// NEFTune: noise uniform in ±alpha/√(length · width) on the token embeddings, in training alone. 5 is common; 0 is off.
    pub neftune_alpha: f64,
}

impl ObjectiveKind for SftConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = check::below("label_smoothing", self.label_smoothing, 1.0);
        wrong.extend(check::at_least_zero("neftune_alpha", self.neftune_alpha));
        wrong
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
        Ok(Weighted::of(*self, &given.tasks))
    }
}

impl Objective for SftConfig {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn noise_alpha(&self) -> f64 {
        self.neftune_alpha
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        LossFn::new(|model, hidden| Loss {
            sum: nll_sum(model, hidden, &micro.batch, self.label_smoothing),
            figures: Vec::new(),
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        // A batch that the model answers with NaN comes out as NaN: the run's own check names it.
        let nll = ft_eval::evaluate(model, [batch.clone()]).map_or(f64::NAN, |e| e.nll_sum);
        HeldOut {
            loss: nll,
            count: batch.target_tokens(),
            nll: Some((nll, batch.target_tokens())),
            ..HeldOut::default()
        }
    }
}
