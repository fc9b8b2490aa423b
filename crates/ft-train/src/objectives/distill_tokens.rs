//! Distillation of a model that predicts tokens, next or hidden ones.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ft_data::{Batch, Masking, sub_seed};
use ft_kernels::DistillationOptions;
use ft_model::Model;
use ft_ranks::Ranks;

use super::distill::DistillConfig;
use super::hidden_states::{States, rows_at};
use super::own_answers::OwnAnswers;
use super::teacher::{Asked, Scores};
use super::{Figure, HeldOut, LayerLoss, Loss, LossFn, Objective, Part, Unit, at_targets};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

#[derive(Debug)]
pub(super) struct DistillTokens {
    pub options: DistillConfig,
    pub scores: Scores,
    /// Of encoders.
    pub masking: Option<Masking>,
    pub device: Device,
    pub seed: u64,
    pub answers: OwnAnswers,
}

/// A batch with what the teacher says of it.
#[derive(Clone, Copy)]
struct Micro<'a> {
    batch: &'a Batch,
    asked: &'a Asked,
    alpha: f64,
}

impl DistillTokens {
    fn ask(&self, batch: &Batch, part: Part) -> Asked {
        self.scores.ask(batch, part, &self.options.hidden_layers, &self.device)
    }

    /// The weighted distance of the model's hidden states `[n, hidden]` from those of the teacher's layer with this number, `[1]`.
    fn apart(&self, model: &Model, student: Tensor<2>, asked: &Asked, number: usize) -> Tensor<1> {
        let student = model.project_hidden(number, student);
        let rows = self.options.hidden_loss.rows(student, asked.states[number].clone());
        rows.sum().mul_scalar(self.options.hidden_weight)
    }

    /// The loss, with what the layers before the last one came to.
    fn compare(&self, model: &Model, hidden: Tensor<3>, micro: Micro<'_>, layers: Option<Tensor<1>>) -> Loss {
        let Micro { batch, asked, alpha } = micro;
        let (at, targets) = at_targets(hidden.clone(), batch);
        let (at, head) = model.head_product(at);
        let options = DistillationOptions {
            alpha,
            beta: self.options.beta,
            temperature: self.options.temperature,
            t_squared: self.options.t_squared,
        };
        let distilled = ft_kernels::distillation(at, head, targets, asked.says.clone(), options);
        let figure = |name, sum: Tensor<1>| Figure {
            name,
            sum: sum.without_autodiff(),
            count: batch.target_tokens(),
        };
        let mut loss = Loss {
            sum: distilled.loss,
            figures: vec![figure("nll", distilled.nll), figure("divergence", distilled.divergence)],
        };
        let layers_of_student = self.options.student_layers();
        let last = layers_of_student.iter().position(|layer| *layer == model.num_blocks());
        let last = last.map(|number| self.apart(model, rows_at(hidden, &batch.positions), asked, number));
        if let Some(apart) = layers.into_iter().chain(last).reduce(|a, b| a + b) {
            let unweighted = apart.clone().div_scalar(self.options.hidden_weight);
            loss.figures.push(figure("hidden", unweighted));
            loss.sum = loss.sum + apart;
        }
        loss
    }

    /// Whether the step is on the student's own answers.
    fn on_policy(&self, step: usize) -> bool {
        // 53 bits as a number from 0 to below 1.
        let draw = (sub_seed(self.seed, &format!("on policy/{step}")) >> 11) as f64 / (1u64 << 53) as f64;
        draw < self.options.lambda
    }
}

impl Objective for DistillTokens {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn begin(&self, model: &Model, step: &StepBatch, _: &Ranks) -> Result<Option<StepBatch>> {
        if let Some(masking) = &self.masking {
            return Ok(Some(step.with(|batch| masking.in_step(batch, step.step))));
        }
        match self.on_policy(step.step) {
            true => self.answers.to(step, &model.valid()).map(Some),
            false => Ok(None),
        }
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, step: &'a StepBatch) -> LossFn<'a> {
        let batch = &micro.batch;
        let asked = Arc::new(self.ask(batch, Part::Train));
        let alpha = if step.own_answers { 1.0 } else { self.options.alpha };
        let inner = LayerLoss {
            after: self.options.student_layers(),
            sum: {
                let asked = asked.clone();
                Box::new(move |model, number, hidden| {
                    self.apart(model, rows_at(hidden, &batch.positions), &asked, number)
                })
            },
        };
        LossFn::over_layers(inner, move |model, hidden, layers| {
            let micro = Micro {
                batch,
                asked: &asked,
                alpha,
            };
            self.compare(model, hidden, micro, layers)
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let masked = self.masking.as_ref().map(|masking| masking.held_out(batch));
        let batch = masked.as_ref().unwrap_or(batch);
        let own = States::of(model, batch, &self.options.student_layers(), &batch.positions);
        let asked = self.ask(batch, Part::Valid);
        let before_last = own.after.into_iter().zip(&self.options.hidden_layers).enumerate();
        let layers = before_last
            .filter(|(_, (_, [layer, _]))| *layer < model.num_blocks())
            .map(|(number, (states, _))| self.apart(model, states, &asked, number));
        let layers = layers.reduce(|a, b| a + b);
        let micro = Micro {
            batch,
            asked: &asked,
            alpha: self.options.alpha,
        };
        let loss = self.compare(model, own.last, micro, layers);
        let mut judged = loss.held_out(batch.target_tokens());
        let (_, nll, tokens) = judged.figures.remove(0);
        judged.nll = Some((nll, tokens));
        judged
    }
}
