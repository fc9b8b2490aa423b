//! The model as burn-train sees it: one training step is one whole optimizer step's worth of forward and backward passes.

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use ft_data::Batch;
use ft_model::Model;
use ft_optim::scale_grads;
use ft_peft::Pass;

use crate::backward::{Keeping, loss_gradients, smoothed_nll_sum};
use crate::config::ObjectiveSection;
use crate::feed::{Micro, Window};
use crate::metrics::{StepOutput, Sum};

/// A language model that burn-train can train.
#[derive(Module, Debug)]
pub struct TrainModel {
    /// The model itself.
    pub model: Model,
    /// What its forward passes keep.
    #[module(skip)]
    pub keeping: Keeping,
    /// What is minimized.
    #[module(skip)]
    pub objective: ObjectiveSection,
}

impl TrainStep for TrainModel {
    type Input = Window;
    type Output = StepOutput;

    fn step(&self, window: Window) -> TrainOutput<StepOutput> {
        self.gradients(&window, &|| true).expect("nobody asks to stop")
    }
}

impl TrainModel {
    /// Gradients of the summed loss of a window; the session divides them by its learned tokens once. None when `go_on` is
    /// false between two forward passes: a long step must not outlast the time that a signal leaves.
    pub(crate) fn gradients(&self, window: &Window, go_on: &dyn Fn() -> bool) -> Option<TrainOutput<StepOutput>> {
        let mut gradients = GradientsAccumulator::new();
        let mut total: Option<Tensor<1>> = None;
        for micro in &window.micro {
            if !go_on() {
                return None;
            }
            #[cfg(test)]
            crate::room::tests::refuse(&micro.batch);
            let pass = self.objective.pass(micro);
            let loss = self.objective.loss(window.loss_factor);
            let sum = loss_gradients(&self.model, &micro.batch, &pass, self.keeping, loss, |grads| {
                gradients.accumulate(&self.model, grads)
            });
            let sum = scaled(sum, window.loss_factor.map(f64::recip));
            total = Some(match total {
                Some(total) => total + sum,
                None => sum,
            });
        }
        let nll = total.unwrap_or_else(|| Tensor::zeros([1], &self.model.device().inner()));
        let item = StepOutput {
            nll: Sum::Device(Box::new(nll)),
            tokens: window.learned,
            grad_norm: None,
            tokens_per_s: 0.0,
        };
        let grads = match window.loss_factor {
            None => gradients.grads(),
            Some(factor) => scale_grads(&self.model, gradients.grads(), factor.recip()),
        };
        Some(TrainOutput { grads, item })
    }

    /// Sum of the negative log-likelihood in nats over the learned tokens. A batch that the model answers with NaN comes out as
    /// NaN: the run's own check names it.
    pub(crate) fn held_out(&self, batch: Batch) -> f64 {
        #[cfg(test)]
        crate::room::tests::refuse(&batch);
        ft_eval::evaluate(&self.model, [batch]).map_or(f64::NAN, |e| e.nll_sum)
    }
}

impl ObjectiveSection {
    /// The training pass over a micro-batch.
    pub(crate) fn pass(&self, micro: &Micro) -> Pass {
        Pass::train(micro.dropout_seed).with_noise(self.neftune_alpha)
    }

    /// What is minimized, times `factor`, from the hidden states after the final norm.
    pub(crate) fn loss(&self, factor: Option<f64>) -> impl Fn(&Model, Tensor<3>, &Batch) -> Tensor<1> + use<> {
        let smoothing = self.label_smoothing;
        move |model, hidden, batch| scaled(smoothed_nll_sum(model, hidden, batch, smoothing), factor)
    }
}

fn scaled(loss: Tensor<1>, factor: Option<f64>) -> Tensor<1> {
    match factor {
        None => loss,
        Some(factor) => loss.mul_scalar(factor),
    }
}

impl InferenceStep for TrainModel {
    type Input = Batch;
    type Output = StepOutput;

    fn step(&self, batch: Batch) -> StepOutput {
        let tokens = batch.learned();
        StepOutput::evaluated(self.held_out(batch), tokens)
    }
}
