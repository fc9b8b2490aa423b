//! The model as burn-train sees it: one training step is one whole optimizer step's worth of forward and backward passes.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use ft_data::Batch;
use ft_model::Model;
use ft_optim::scale_grads;
use ft_peft::Pass;

use crate::batches::{MicroBatch, StepBatch, Totals};
use crate::engine::backward::{ActivationPolicy, Losses, Piece, backward_through};
use crate::engine::balance::Balance;
use crate::engine::together::Together;
use crate::objectives::{Figure, HeldOut, Objective, SftConfig};
use crate::watch::metrics::{StepOutput, Sum};
use crate::{Error, Result};

/// A language model that burn-train can train.
#[derive(Module, Debug)]
pub struct TrainModel {
    /// The model itself.
    pub model: Model,
    /// What its forward passes keep for the backward pass.
    #[module(skip)]
    pub activations: ActivationPolicy,
    /// What is minimized.
    #[module(skip)]
    pub objective: Arc<dyn Objective>,
    /// Who takes the passes of a step with this process.
    #[module(skip)]
    pub ranks: Together,
}

impl TrainStep for TrainModel {
    type Input = StepBatch;
    type Output = StepOutput;

    fn step(&self, batch: StepBatch) -> TrainOutput<StepOutput> {
        let output = self.gradients(&batch, &|| true);
        output.expect("a forward pass").expect("nobody asks to stop")
    }
}

impl TrainModel {
    /// A model that is fine-tuned on target tokens, with everything kept for the backward pass.
    pub fn new(model: Model) -> Self {
        Self {
            model,
            activations: ActivationPolicy::default(),
            objective: Arc::new(SftConfig::default()),
            ranks: Together::default(),
        }
    }

    /// The same model with another objective; shares every tensor.
    pub(crate) fn minimizing(&self, objective: Arc<dyn Objective>) -> Self {
        Self {
            objective,
            ..self.clone()
        }
    }

    /// The same model in this process alone.
    pub(crate) fn alone(self) -> Self {
        Self {
            ranks: Together::default(),
            ..self
        }
    }

    /// Gradients of the loss summed over its units; the step divides them by [`StepOutput::count`] once. None when `go_on` is
    /// false between two forward passes: a long step must not outlast the time that a signal leaves. Several ranks take their shares of
    /// it, and stop between steps alone.
    ///
    /// # Errors
    /// What the objective's own forward passes run into.
    pub fn gradients(&self, batch: &StepBatch, go_on: &dyn Fn() -> bool) -> Result<Option<TrainOutput<StepOutput>>> {
        let own = self.objective.begin(&self.model, batch, &self.ranks)?;
        let batch = own.as_ref().unwrap_or(batch);
        if !self.ranks.is_alone() {
            return self.gradients_together(batch);
        }
        let all: Vec<&MicroBatch> = batch.micro_batches.iter().collect();
        Ok(self.passes_while(&all, batch, go_on))
    }

    /// The gradients of some of a step's forward passes; the count is that of the whole step.
    pub(super) fn passes(&self, own: &[&MicroBatch], batch: &StepBatch) -> TrainOutput<StepOutput> {
        let output = self.passes_while(own, batch, &|| true);
        output.expect("nobody asks to stop")
    }

    fn passes_while(
        &self,
        own: &[&MicroBatch],
        batch: &StepBatch,
        go_on: &dyn Fn() -> bool,
    ) -> Option<TrainOutput<StepOutput>> {
        let mut gradients = GradientsAccumulator::new();
        let mut passes = Passes::default();
        for micro in own {
            if !go_on() {
                return None;
            }
            #[cfg(test)]
            crate::engine::memory_limit::tests::refuse(&micro.batch);
            let take = |model: Model, piece: Piece<'_>, _: &[Figure]| {
                gradients.accumulate(&model, piece.grads);
                ControlFlow::Continue(model)
            };
            let (_, sum, figures) = self.parts().pieces(self.model.clone(), micro, batch, take);
            passes.add(sum, figures);
        }
        let grads = match batch.loss_factor {
            None => gradients.grads(),
            Some(factor) => scale_grads(&self.model, gradients.grads(), factor.recip()),
        };
        let item = passes.output(&self.model, self.objective.unit().of(batch.totals()));
        Some(TrainOutput { grads, item })
    }

    /// A step of one micro-batch whose gradients are used as soon as they are there: `each` is handed them piece by piece with what the
    /// step comes to, and may change the parameters that nothing to come uses.
    ///
    /// # Errors
    /// More than one micro-batch; what the objective's own forward passes run into.
    pub fn in_pieces(
        self,
        batch: &StepBatch,
        mut each: impl FnMut(Model, Piece<'_>, &StepOutput) -> ControlFlow<Model, Model>,
    ) -> Result<(Self, StepOutput)> {
        let own = self.objective.begin(&self.model, batch, &self.ranks)?;
        let batch = own.as_ref().unwrap_or(batch);
        let [micro] = batch.micro_batches.as_slice() else {
            return Err(Error::Training(
                "a step in the backward pass takes one micro-batch".into(),
            ));
        };
        let count = self.objective.unit().of(batch.totals());
        let Self {
            model,
            activations,
            objective,
            ranks,
        } = self;
        let output = |loss: Tensor<1>, figures: Vec<Figure>| StepOutput {
            loss: Sum::Device(Box::new(loss)),
            count,
            figures,
            grad_norm: None,
            tokens_per_s: 0.0,
        };
        let with_output = |model, piece: Piece<'_>, figures: &[Figure]| {
            let output = output(piece.loss.clone(), figures.to_vec());
            each(model, piece, &output)
        };
        let parts = Parts {
            activations,
            objective: &*objective,
        };
        let (model, loss, figures) = parts.pieces(model, micro, batch, with_output);
        let output = output(loss, figures);
        let train = Self {
            model,
            activations,
            objective,
            ranks,
        };
        Ok((train, output))
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            activations: self.activations,
            objective: &*self.objective,
        }
    }

    /// The objective's judgement of a held-out batch.
    pub(crate) fn held_out(&self, batch: &Batch) -> HeldOut {
        #[cfg(test)]
        crate::engine::memory_limit::tests::refuse(batch);
        self.objective.held_out(&self.model, batch)
    }
}

/// What a backward pass depends on beside the model, which may be moved through it.
struct Parts<'a> {
    activations: ActivationPolicy,
    objective: &'a dyn Objective,
}

impl Parts<'_> {
    /// The forward and backward pass of one micro-batch; the model, the value of the loss, its factor taken out again, and its
    /// figures.
    fn pieces(
        &self,
        model: Model,
        micro: &MicroBatch,
        batch: &StepBatch,
        mut each: impl FnMut(Model, Piece<'_>, &[Figure]) -> ControlFlow<Model, Model>,
    ) -> (Model, Tensor<1>, Vec<Figure>) {
        let (figures, factor) = (RefCell::new(Vec::new()), batch.loss_factor);
        let objective = self.objective.loss(micro, batch);
        let unscaled = |sum| scaled(sum, factor.map(f64::recip));
        let last = |model: &Model, hidden, layers: Option<Tensor<1>>| {
            let loss = objective.loss(model, hidden, layers.map(unscaled));
            figures.borrow_mut().extend(loss.figures);
            scaled(loss.sum, factor)
        };
        let inner = |model: &Model, number, hidden| {
            let layers = objective.layers().expect("a loss over layers");
            scaled((layers.sum)(model, number, hidden), factor)
        };
        let units = self.objective.unit().of(Totals::of([&micro.batch])) as f64;
        let balance = Balance::of(&model, &micro.batch, units * factor.unwrap_or(1.0));
        let loss = Losses {
            balance: balance.as_ref(),
            last: &last,
            after: objective.layers().map_or(&[], |layers| &layers.after),
            inner: &inner,
        };
        let pass = match batch.drops {
            true => Pass::train(micro.dropout_seed).with_noise(self.objective.noise_alpha()),
            false => Pass::eval(),
        };
        let each = |model, piece: Piece<'_>| each(model, piece, &figures.borrow());
        let (model, sum) = backward_through(model, &micro.batch, &pass, self.activations, loss, each);
        (model, unscaled(sum), figures.into_inner())
    }
}

/// Sums over the forward passes of a step.
#[derive(Default)]
struct Passes {
    loss: Option<Tensor<1>>,
    figures: Vec<Figure>,
}

impl Passes {
    fn add(&mut self, sum: Tensor<1>, figures: Vec<Figure>) {
        self.loss = Some(match self.loss.take() {
            Some(total) => total + sum,
            None => sum,
        });
        figures.into_iter().for_each(|figure| figure.join(&mut self.figures));
    }

    fn output(self, model: &Model, count: usize) -> StepOutput {
        let loss = self.loss.unwrap_or_else(|| Tensor::zeros([1], &model.device().inner()));
        StepOutput {
            loss: Sum::Device(Box::new(loss)),
            count,
            figures: self.figures,
            grad_norm: None,
            tokens_per_s: 0.0,
        }
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
        let HeldOut { loss, count, .. } = self.held_out(&batch);
        StepOutput::evaluated(loss, count)
    }
}
