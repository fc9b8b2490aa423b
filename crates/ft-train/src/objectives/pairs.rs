//! What the objectives over pairs of answers share: the log-probabilities of both, the reference's, and the figures of the log.
//!
//! ```text
//! batch rows    chosen 0, rejected 0, chosen 1, rejected 1, ...      one forward pass over both
//! log π(y|x)    sum over the target tokens of a row
//! ```

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use ft_data::{Batch, Examples};
use ft_model::Model;

use super::log_probs::{plain_log_probs, row_log_probs, row_targets};
use super::reference_scores::ReferenceScores;
use super::{
    Figure, Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Other, PREFERENCE_RATE, Part, Reference, Unit, read,
};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch, Totals};

/// Log-probabilities of the answers of a micro-batch of pairs; every tensor is `[pairs]`.
pub(super) struct Pairs {
    /// Of the preferred answers under the model that trains.
    pub chosen: Tensor<1>,
    /// Of the others.
    pub rejected: Tensor<1>,
    /// Both under the reference, where there is one.
    pub reference: Option<[Tensor<1>; 2]>,
    /// Target tokens of both.
    pub tokens: [Tensor<1>; 2],
}

impl Pairs {
    /// log π(y|x)/π_ref(y|x) of both.
    pub fn ratios(&self) -> [Tensor<1>; 2] {
        let [chosen, rejected] = self.reference.clone().expect("an objective with a reference");
        [self.chosen.clone() - chosen, self.rejected.clone() - rejected]
    }

    /// β times [`ratios`](Self::ratios): the rewards that the model implies.
    pub fn rewards(&self, beta: f64) -> [Tensor<1>; 2] {
        self.ratios().map(|ratio| ratio.mul_scalar(beta))
    }

    /// Mean log-probability per target token of both.
    pub fn means(&self) -> [Tensor<1>; 2] {
        let [chosen, rejected] = self.tokens.clone();
        [self.chosen.clone() / chosen, self.rejected.clone() / rejected]
    }
}

/// What a pair objective makes of them.
pub(super) struct Judged {
    /// Loss of each pair, `[pairs]`.
    pub losses: Tensor<1>,
    /// Implicit rewards of both answers, `[pairs]`, without a tape.
    pub rewards: [Tensor<1>; 2],
    /// More to log: means over the pairs.
    pub figures: Vec<(&'static str, Tensor<1>)>,
}

/// The loss of pairs of answers, by the options that make it an [`ObjectiveKind`].
pub(super) trait PairLoss: Clone + Debug + Send + Sync + 'static {
    /// See [`ObjectiveKind::check`].
    fn check(&self) -> Vec<String>;

    /// The model to measure against.
    fn reference(&self) -> Option<&Reference> {
        None
    }

    /// Whether that model is asked before the first step alone.
    fn asks_once(&self) -> bool {
        false
    }

    /// The loss of each pair.
    fn judge(&self, pairs: &Pairs) -> Judged;

    /// Weight of the mean negative log-likelihood of the chosen answers' target tokens.
    fn sft_weight(&self) -> f64 {
        0.0
    }
}

impl<L: PairLoss> ObjectiveKind for L {
    fn check(&self) -> Vec<String> {
        PairLoss::check(self)
    }

    fn examples(&self) -> Examples {
        Examples::Pairs
    }

    fn rate_factor(&self) -> f64 {
        PREFERENCE_RATE
    }

    fn other(&self) -> Option<Other<'_>> {
        self.reference().map(Reference::other)
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
        let model = self.other().map(|other| given.model(other)).transpose()?;
        Ok(Arc::new(PairObjective {
            reference: model.map(|model| match self.asks_once() {
                true => ReferenceScores::computed(&model, given),
                false => ReferenceScores::Live(Box::new(model)),
            }),
            loss: self.clone(),
            device: given.base().device(),
        }))
    }
}

/// An objective over pairs.
#[derive(Debug)]
struct PairObjective<L> {
    loss: L,
    /// Where the model computes.
    device: Device,
    /// What it is measured against.
    reference: Option<ReferenceScores>,
}

impl<L: PairLoss> PairObjective<L> {
    fn reference_of(&self, batch: &Batch, part: Part, device: &Device) -> Option<[Tensor<1>; 2]> {
        let reference = self.reference.as_ref()?;
        Some(halves(reference.of(batch, part, device)))
    }

    /// Sum of the losses of all pairs, `[1]`, and the figures.
    fn sum(&self, log_probs: Tensor<1>, batch: &Batch, totals: Totals, reference: Option<[Tensor<1>; 2]>) -> Loss {
        let tokens = halves(row_targets(batch, &log_probs));
        let [chosen, rejected] = halves(log_probs);
        let autodiff = chosen.device().is_autodiff();
        let on_tape = |x: Tensor<1>| if autodiff { x.autodiff() } else { x };
        let pairs = Pairs {
            chosen,
            rejected,
            reference: reference.map(|both| both.map(on_tape)),
            tokens: tokens.map(|t| t.detach()),
        };
        let judged = self.loss.judge(&pairs);
        let mut sum = judged.losses.clone().sum();
        if self.loss.sft_weight() != 0.0 {
            // Minimized are sums over pairs, so that a mean over tokens counts once for every pair.
            let weight = self.loss.sft_weight() * totals.examples as f64 / totals.chosen_tokens.max(1) as f64;
            sum = sum - pairs.chosen.clone().sum().mul_scalar(weight);
        }
        Loss {
            sum,
            figures: figures(&pairs, judged, batch.examples()),
        }
    }
}

impl<L: PairLoss> Objective for PairObjective<L> {
    fn unit(&self) -> Unit {
        Unit::Examples
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a> {
        let reference = self.reference_of(&micro.batch, Part::Train, &self.device);
        LossFn::new(move |model, hidden| {
            let log_probs = row_log_probs(model, hidden, &micro.batch);
            self.sum(log_probs, &micro.batch, step.totals(), reference.clone())
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let log_probs = plain_log_probs(model, batch);
        let [chosen, _] = halves(log_probs.clone());
        let chosen_nll = read(chosen.sum().neg());
        let totals = Totals::of([batch]);
        let loss = self.sum(
            log_probs,
            batch,
            totals,
            self.reference_of(batch, Part::Valid, &self.device),
        );
        HeldOut {
            nll: Some((chosen_nll, totals.chosen_tokens)),
            ..loss.held_out(batch.examples())
        }
    }
}

/// Rows `[2 pairs]` as those of the chosen and of the rejected answers, `[pairs]` each.
fn halves(rows: Tensor<1>) -> [Tensor<1>; 2] {
    let pairs = rows.dims()[0] / 2;
    let rows = rows.reshape([pairs, 2]);
    [0, 1].map(|side| rows.clone().slice([0..pairs, side..side + 1]).reshape([pairs]))
}

/// TRL's names.
fn figures(pairs: &Pairs, judged: Judged, count: usize) -> Vec<Figure> {
    let plain = |x: &Tensor<1>| x.clone().detach().without_autodiff();
    let [chosen, rejected] = judged.rewards.map(|reward| plain(&reward));
    let margins = chosen.clone() - rejected.clone();
    let accuracies = margins.clone().greater_elem(0.0).float();
    let named = [
        ("rewards/chosen", chosen),
        ("rewards/rejected", rejected),
        ("rewards/accuracies", accuracies),
        ("rewards/margins", margins),
        ("logps/chosen", plain(&pairs.chosen)),
        ("logps/rejected", plain(&pairs.rejected)),
    ];
    let own = judged.figures.into_iter().map(|(name, values)| (name, plain(&values)));
    let figure = |(name, values): (&'static str, Tensor<1>)| Figure {
        name,
        sum: values.sum(),
        count,
    };
    named.into_iter().chain(own).map(figure).collect()
}
