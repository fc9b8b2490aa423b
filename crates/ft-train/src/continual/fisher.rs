//! The diagonal of the Fisher information of what trains, from the gradients of single samples.
//!
//! ```text
//! F = Σ_n (∂ log p(y_n | x_n) / ∂θ)² / Σ_n |y_n|        a sample's target tokens together are one observation
//! ```
//!
//! Squares of gradients over several samples would be too small by about their number. Divided by target tokens, F has the scale of
//! a loss that is a mean over them.

use std::borrow::Cow;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Tensor, activation};
use ft_data::{Batch, stream};
use ft_model::Model;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::vector::Vector;
use super::{Now, Setting, Summed};
use crate::Result;
use crate::batches::StepBatch;
use crate::engine::sum_of;
use crate::objectives::{Objective, SftConfig, at_targets, plain_hidden};

/// Whose answers the likelihood is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "Typed")]
pub enum FisherKind {
    /// The data's.
    #[default]
    Empirical,
    /// The model's own: every target token is drawn from what the model expects there, which costs a forward pass for every sample.
    True,
}

/// As people type it: `--set continual.fisher=true` is a truth value in TOML.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Typed {
    Word(Word),
    Truth(bool),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    Empirical,
    True,
}

impl TryFrom<Typed> for FisherKind {
    type Error = &'static str;

    fn try_from(typed: Typed) -> std::result::Result<Self, Self::Error> {
        match typed {
            Typed::Word(Word::Empirical) => Ok(Self::Empirical),
            Typed::Word(Word::True) | Typed::Truth(true) => Ok(Self::True),
            Typed::Truth(false) => Err("fisher is \"empirical\" or \"true\""),
        }
    }
}

impl JsonSchema for FisherKind {
    fn schema_name() -> Cow<'static, str> {
        "FisherKind".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Typed::json_schema(generator)
    }
}

/// The estimate from these training samples at the present weights; none where someone asked to stop. Every rank takes samples of its own.
pub(super) fn estimate(rows: &[usize], kind: FisherKind, setting: &Setting, now: &Now<'_>) -> Result<Option<Vector>> {
    let likelihood: Arc<dyn Objective> = Arc::new(SftConfig::default());
    let mut sum: Option<Vector> = None;
    let mut tokens = 0;
    for row in rows.iter().skip(now.ranks.rank()).step_by(now.ranks.size()) {
        let mut batch = setting.batch(&[*row], &StepBatch::new(0, Vec::new()));
        if kind == FisherKind::True {
            let seed = setting.seed;
            for micro in &mut batch.micro_batches {
                answer(&mut micro.batch, now.model, &mut stream(seed, &format!("fisher/{row}")));
            }
        }
        let Some(Summed { grads, count, .. }) = (now.alone)(likelihood.clone(), &batch)? else {
            return Ok(None);
        };
        let squares = Vector::of(now.model, &grads).map(|g| g.square());
        sum = Some(match sum {
            None => squares,
            Some(sum) => sum.plus(&squares, 1.0),
        });
        tokens += count;
    }
    if !now.ranks.is_alone() {
        sum = Some(sum_of(now.ranks, now.model, sum)?);
        let of_rank = now.ranks.all_gather(&(tokens as u64).to_le_bytes())?;
        let number = |bytes: Vec<u8>| bytes.try_into().map_or(0, u64::from_le_bytes);
        tokens = of_rank.into_iter().map(number).sum::<u64>() as usize;
    }
    Ok(sum.map(|sum| sum.map(|part| part.div_scalar(tokens.max(1) as f64))))
}

/// Replaces every target token by one that the model draws.
fn answer(batch: &mut Batch, model: &Model, rng: &mut ft_data::ChaCha8Rng) {
    let plain = model.valid();
    let (hidden, _) = at_targets(plain_hidden(&plain, batch), batch);
    let logits: Tensor<2> = plain.logits(hidden.unsqueeze_dim(0)).squeeze_dim(0);
    let [_, vocabulary] = logits.dims();
    let probabilities = activation::softmax(logits, 1).into_data();
    let probabilities = probabilities.try_to_vec::<f32>().unwrap_or_default();
    for (target, row) in batch.targets.iter_mut().zip(probabilities.chunks(vocabulary)) {
        *target = draw(row, rng) as i32;
    }
}

/// A number with the probability that stands at its place.
fn draw(probabilities: &[f32], rng: &mut ft_data::ChaCha8Rng) -> usize {
    const STEPS: usize = 1 << 40;
    let point = ft_data::below(rng, STEPS) as f64 / STEPS as f64;
    let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
    let mut below = 0.0;
    let passed = probabilities.iter().position(|p| {
        below += f64::from(*p) / total;
        below > point
    });
    passed.unwrap_or(probabilities.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_come_as_often_as_they_are_likely() {
        let mut rng = stream(1, "test");
        let mut counts = [0usize; 4];
        (0..8000).for_each(|_| counts[draw(&[0.1, 0.0, 0.6, 0.3], &mut rng)] += 1);
        assert_eq!(counts[1], 0);
        assert!(
            counts[0].abs_diff(800) < 120 && counts[2].abs_diff(4800) < 200,
            "{counts:?}"
        );
    }
}
