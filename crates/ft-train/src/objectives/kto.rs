//! Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306, eqs. 7 and 8): answers that are rated good or bad one
//! by one, and a reference.
//!
//! ```text
//! r = log π(y|x)/π_ref(y|x)      z = max(0, mean over the step of log π(y'|x)/π_ref(y'|x)), y' the answer to another prompt
//! good   L = w⁺ (1 - σ(β(r - z)))
//! bad    L = w⁻ (1 - σ(β(z - r)))
//! ```
//!
//! z estimates how far the model has gone from the reference and has no gradient. Here it is a mean over the whole optimizer step,
//! so that it does not depend on how the step is cut into micro-batches; TRL takes one for every micro-batch. The answer to
//! another prompt is that of the example before, the last one's for the first.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use ft_data::{Batch, Examples, Sample};
use ft_model::Model;
use ft_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::log_probs::{plain_log_probs, row_log_probs};
use super::targets::prompts_and_answers;
use super::{Figure, Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Other, Reference, Unit, check};
use crate::batches::{MicroBatch, StepBatch};
use crate::{Error, Result};

/// Options of KTO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KtoConfig {
    /// How far the model may go from the reference: the smaller, the farther.
    pub beta: f64,
    /// Weight of answers that are rated good. The paper wants weight times number alike on both sides, within a factor of 4/3.
    pub desirable_weight: f64,
    /// Weight of answers that are rated bad.
    pub undesirable_weight: f64,
    /// The model to measure against: `"base"` (the adapter off), or a folder.
    pub reference: Reference,
}

impl Default for KtoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            reference: Reference::Base,
        }
    }
}

impl ObjectiveKind for KtoConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = check::positive("beta", self.beta);
        wrong.extend(check::at_least_zero("desirable_weight", self.desirable_weight));
        wrong.extend(check::at_least_zero("undesirable_weight", self.undesirable_weight));
        wrong
    }

    fn examples(&self) -> Examples {
        Examples::Rated
    }

    fn rate_factor(&self) -> f64 {
        super::PREFERENCE_RATE
    }

    fn other(&self) -> Option<Other<'_>> {
        Some(self.reference.other())
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
        Ok(Arc::new(Kto {
            reference: given.model(self.reference.other())?,
            options: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Kto {
    options: KtoConfig,
    reference: Model,
}

impl Kto {
    /// log π(y|x)/π_ref(y|x) of each row, `[rows]`, for a plain model.
    fn ratios(&self, model: &Model, batch: &Batch) -> Tensor<1> {
        plain_log_probs(model, batch) - plain_log_probs(&self.reference, batch)
    }

    /// z of these batches, `[1]`: every rank asks the models about its own.
    fn estimate(&self, model: &Model, batches: &[&Batch], ranks: &Ranks) -> Result<Tensor<1>> {
        let mismatched = mismatched(batches);
        let count = mismatched.iter().map(Batch::sequences).sum::<usize>();
        let own = mismatched.iter().skip(ranks.rank()).step_by(ranks.size());
        let sums: Vec<Tensor<1>> = own.map(|batch| self.ratios(model, batch).sum()).collect();
        let sum = match sums.is_empty() {
            true => Tensor::zeros([1], &model.device()),
            false => Tensor::cat(sums, 0).sum(),
        };
        let sum = over(ranks, sum)?;
        Ok(sum.div_scalar(count.max(1) as f64).clamp_min(0.0))
    }

    /// Sum of the losses, `[1]`, from the log-probabilities of both models, `[rows]`, and z.
    fn sum(&self, own: Tensor<1>, reference: Tensor<1>, z: &Tensor<1>, batch: &Batch) -> Loss {
        let on_tape = |x: Tensor<1>| if own.device().is_autodiff() { x.autodiff() } else { x };
        let (signs, weights) = (self.signs(batch, &own), self.weights(batch, &own));
        let ratios = own.clone() - on_tape(reference);
        // 1 - σ(x) = σ(-x)
        let advantage = (ratios.clone() - on_tape(z.clone())).mul_scalar(self.options.beta) * on_tape(signs);
        let losses = burn::tensor::activation::sigmoid(advantage.neg()) * on_tape(weights);
        let plain = |x: Tensor<1>| x.detach().without_autodiff();
        let figures = figures(plain(ratios).mul_scalar(self.options.beta), plain(own), z, batch);
        Loss {
            sum: losses.sum(),
            figures,
        }
    }

    /// 1 where the answer is good, -1 where it is bad.
    fn signs(&self, batch: &Batch, like: &Tensor<1>) -> Tensor<1> {
        per_row(batch, like, |good| if good { 1.0 } else { -1.0 })
    }

    fn weights(&self, batch: &Batch, like: &Tensor<1>) -> Tensor<1> {
        let KtoConfig {
            desirable_weight,
            undesirable_weight,
            ..
        } = self.options;
        per_row(
            batch,
            like,
            |good| if good { desirable_weight } else { undesirable_weight } as f32,
        )
    }
}

impl Objective for Kto {
    fn unit(&self) -> Unit {
        Unit::Examples
    }

    fn begin(&self, model: &Model, step: &StepBatch, ranks: &Ranks) -> Result<Option<StepBatch>> {
        let batches: Vec<&Batch> = step.micro_batches.iter().map(|micro| &micro.batch).collect();
        let baseline = self.estimate(&model.valid(), &batches, ranks)?;
        Ok(Some(StepBatch {
            baseline: Some(baseline),
            ..step.clone()
        }))
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a> {
        let reference = plain_log_probs(&self.reference, &micro.batch);
        let z = step.baseline.clone().expect("estimated before the first forward pass");
        LossFn::new(move |model, hidden| {
            let own = row_log_probs(model, hidden, &micro.batch);
            self.sum(own, reference.clone(), &z, &micro.batch)
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let own = plain_log_probs(model, batch);
        let z = self.estimate(model, &[batch], &Ranks::alone());
        let z = z.expect("nobody else is asked");
        let loss = self.sum(own, plain_log_probs(&self.reference, batch), &z, batch);
        loss.held_out(batch.examples())
    }
}

/// The sum over all ranks, `[1]`.
fn over(ranks: &Ranks, sum: Tensor<1>) -> Result<Tensor<1>> {
    if ranks.is_alone() {
        return Ok(sum);
    }
    let device = sum.device();
    let mut numbers = sum.try_into_vec_as::<f32>().map_err(Error::device)?;
    ranks.sum(&mut numbers)?;
    Ok(Tensor::from_data(TensorData::new(numbers, [1]), (&device, DType::F32)))
}

/// The prompts of these batches, each with the answer to the prompt before it; in batches that are laid out alike.
fn mismatched(batches: &[&Batch]) -> Vec<Batch> {
    let halves: Vec<(Vec<u32>, Vec<u32>)> = batches.iter().flat_map(|batch| prompts_and_answers(batch)).collect();
    let count = halves.len();
    let sample = |i: usize| {
        let (prompt, answer) = (&halves[i].0, &halves[(i + count - 1) % count].1);
        Sample::answered([prompt.as_slice(), answer].concat(), prompt.len())
    };
    let samples: Vec<Sample> = (0..count).map(sample).collect();
    let mut rest = samples.as_slice();
    let mut out = Vec::new();
    for batch in batches {
        let (own, later) = rest.split_at(batch.sequences());
        rest = later;
        out.push(batch.with_sequences(own));
    }
    out
}

fn per_row(batch: &Batch, like: &Tensor<1>, value: impl Fn(bool) -> f32) -> Tensor<1> {
    let values: Vec<f32> = batch.labels.iter().map(|good| value(*good)).collect();
    let device = like.device().without_autodiff();
    Tensor::from_data(TensorData::new(values, [batch.sequences()]), (&device, DType::F32))
}

/// TRL's names.
fn figures(rewards: Tensor<1>, log_probs: Tensor<1>, z: &Tensor<1>, batch: &Batch) -> Vec<Figure> {
    let good = batch.labels.iter().filter(|good| **good).count();
    let picked = |values: &Tensor<1>, wanted: bool| {
        let mask = per_row(batch, values, |good| if good == wanted { 1.0 } else { 0.0 });
        (values.clone() * mask).sum()
    };
    let figure = |name, sum, count| Figure { name, sum, count };
    vec![
        figure("rewards/chosen", picked(&rewards, true), good),
        figure("rewards/rejected", picked(&rewards, false), batch.sequences() - good),
        figure("logps/chosen", picked(&log_probs, true), good),
        figure("logps/rejected", picked(&log_probs, false), batch.sequences() - good),
        figure("kl", z.clone(), 1),
    ]
}
