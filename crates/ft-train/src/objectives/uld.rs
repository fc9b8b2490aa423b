//! Distillation from a teacher with another tokenizer: universal logit distillation over spans of text. See [`DistillConfig`] and
//! [`ft_kernels::uld`] for the formula.

use burn::tensor::Tensor;
use ft_data::Batch;
use ft_kernels::{SpanPair, UldOptions, UldTeacher};
use ft_model::Model;
use ft_ranks::Ranks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::targets::plain_hidden;
use super::{DistillConfig, Figure, HeldOut, Loss, LossFn, Objective, Reference, Unit, at_targets};
use crate::batches::{MicroBatch, StepBatch};
use crate::{Error, Result};

/// How far a student is from its teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Divergence {
    /// `kl` where both models have one tokenizer, `uld` where they have two.
    #[default]
    Auto,
    /// A Kullback-Leibler or Jensen-Shannon divergence, token by token.
    Kl,
    /// The distance of sorted probabilities, span by span of the text.
    Uld,
}

/// What of the options ULD cannot take, as `key: message`.
pub fn conflicts(options: &DistillConfig) -> Vec<String> {
    let why = "and the teacher is compared by ULD (objective.divergence), token by token of another tokenizer";
    let found = [
        (options.beta != 0.0, "beta: chooses among KL divergences"),
        (options.t_squared, "t_squared: scales a KL divergence"),
        (options.cache.is_some(), "cache: holds scores of this model's tokens"),
        (
            options.lambda > 0.0,
            "lambda: the student's own answers are this model's tokens",
        ),
        (
            !options.hidden_layers.is_empty(),
            "hidden_layers: pairs hidden states token by token",
        ),
    ];
    let conflict = |(_, what): &(bool, &str)| format!("objective.{what}, {why}; leave it out");
    let mut wrong: Vec<String> = found.iter().filter(|(found, _)| *found).map(conflict).collect();
    if options.teacher == Some(Reference::Base) {
        wrong.push(
            "objective.teacher: \"base\" has the student's own tokenizer; leave objective.divergence = \"uld\" out"
                .into(),
        );
    }
    wrong
}

/// The objective.
#[derive(Debug)]
pub struct Uld {
    teacher: Model,
    options: UldOptions,
}

/// What the teacher says of a batch.
struct Asked {
    teacher: UldTeacher,
    spans: Vec<SpanPair>,
}

impl Uld {
    /// A frozen teacher on a plain device.
    pub fn new(teacher: Model, options: &DistillConfig) -> Self {
        Self {
            teacher,
            options: UldOptions {
                alpha: options.alpha,
                temperature: options.temperature,
            },
        }
    }

    fn ask(&self, batch: &Batch) -> Asked {
        let read = batch
            .teacher
            .as_deref()
            .expect("samples that were read for the teacher too");
        let hidden = plain_hidden(&self.teacher, &read.batch);
        let (hidden, targets) = at_targets(hidden, &read.batch);
        let (hidden, head) = self.teacher.head_product(hidden);
        let pair = |[student, teacher]: &[std::ops::Range<usize>; 2]| SpanPair {
            student: student.clone(),
            teacher: teacher.clone(),
        };
        Asked {
            teacher: UldTeacher { hidden, head, targets },
            spans: read.spans.iter().map(pair).collect(),
        }
    }

    fn compare(&self, model: &Model, hidden: Tensor<3>, batch: &Batch, asked: &Asked) -> Loss {
        let (hidden, targets) = at_targets(hidden, batch);
        let (hidden, head) = model.head_product(hidden);
        let distilled = ft_kernels::uld(hidden, head, targets, asked.teacher.clone(), &asked.spans, self.options);
        let figure = |name, sum: Tensor<1>, count| Figure {
            name,
            sum: sum.without_autodiff(),
            count,
        };
        Loss {
            sum: distilled.loss,
            figures: vec![
                figure("nll", distilled.nll, batch.target_tokens()),
                figure("uld", distilled.divergence, asked.spans.len()),
            ],
        }
    }
}

impl Objective for Uld {
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    fn begin(&self, _: &Model, step: &StepBatch, _: &Ranks) -> Result<Option<StepBatch>> {
        match step.micro_batches.iter().all(|micro| micro.batch.teacher.is_some()) {
            true => Ok(None),
            false => {
                let why = "objective.divergence = \"uld\": a step has samples that were not read for the teacher (ft_data::load_taught)";
                Err(Error::Plan(vec![why.into()]))
            }
        }
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        let asked = self.ask(&micro.batch);
        LossFn::new(move |model, hidden| self.compare(model, hidden, &micro.batch, &asked))
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let asked = self.ask(batch);
        let loss = self.compare(model, plain_hidden(model, batch), batch, &asked);
        let mut judged = loss.held_out(batch.target_tokens());
        let (_, nll, tokens) = judged.figures.remove(0);
        judged.nll = Some((nll, tokens));
        judged
    }
}
