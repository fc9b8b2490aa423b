//! Distillation of a classifier: the student learns what a teacher's head says of a text (Hinton et al. 2015, arXiv:1503.02531), the label,
//! and the teacher's hidden states (DistilBERT: Sanh et al. 2019, arXiv:1910.01108, section 3).
//!
//! ```text
//! t, s: outputs of teacher's and student's head                p, q: at temperature T
//! D = the divergence that β chooses, of p and q                one class of several: softmax(t/T), softmax(s/T)
//!     its mean over the labels                                 any of several: σ(t/T) and 1 - σ(t/T) of each
//!     mean over the outputs of (s - t)²                        numbers
//! L = α D + (1-α) (loss of the labels)                         mean over what is labelled; with t_squared α T² D of classes
//! ```
//!
//! Hidden states are compared at all tokens of a text, and count with their mean over it.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData, activation};
use ft_data::{Batch, NO_CLASS};
use ft_eval::{HeadAnswers, head_loss, head_outputs};
use ft_model::{HeadConfig, Model, Problem};

use super::distill::DistillConfig;
use super::hidden_states::{States, rows_at};
use super::teacher::{layers_of_teacher, states_of_pairs};
use super::{Figure, HeldOut, LayerLoss, Loss, LossFn, Objective, Unit, read};
use crate::batches::{MicroBatch, StepBatch};

#[derive(Debug)]
pub(super) struct DistillLabels {
    pub options: DistillConfig,
    pub head: HeadConfig,
    /// Frozen, on a plain device.
    pub teacher: Model,
}

/// What the teacher says of a batch.
struct Said {
    outputs: Tensor<2>,
    /// Hidden states of every token for every pair of layers, `[n, hidden]` in f32.
    states: Vec<Tensor<2>>,
    tokens: Tokens,
}

/// The tokens of a batch.
struct Tokens {
    cells: Vec<i32>,
    /// What each counts, so that those of a text count together as what is labelled of it.
    weights: Vec<f32>,
}

impl Tokens {
    fn of(batch: &Batch) -> Self {
        let mut tokens = Self {
            cells: Vec::new(),
            weights: Vec::new(),
        };
        for (sequence, classes) in batch.classes.iter().enumerate() {
            let cells = batch.cells(sequence);
            let labelled = match batch.tagged {
                true => classes.iter().filter(|class| **class != NO_CLASS).count(),
                false => usize::from(!classes.is_empty()),
            };
            let weight = labelled as f32 / cells.len() as f32;
            tokens.weights.extend(std::iter::repeat_n(weight, cells.len()));
            tokens.cells.extend(cells.map(|cell| cell as i32));
        }
        tokens
    }
}

impl DistillLabels {
    fn ask(&self, batch: &Batch) -> Said {
        let (pairs, tokens) = (&self.options.hidden_layers, Tokens::of(batch));
        let layers = layers_of_teacher(pairs);
        let states = States::of(&self.teacher, batch, &layers, &tokens.cells);
        Said {
            states: states_of_pairs(pairs, &layers, &states),
            outputs: head_outputs(&self.teacher, states.last, batch),
            tokens,
        }
    }

    /// The weighted distance of the model's hidden states `[n, hidden]` from those of the teacher's layer with this number, `[1]`.
    fn apart(&self, model: &Model, student: Tensor<2>, said: &Said, number: usize) -> Tensor<1> {
        let student = model.project_hidden(number, student);
        let rows = self.options.hidden_loss.rows(student, said.states[number].clone());
        let weights = TensorData::new(said.tokens.weights.clone(), rows.dims());
        let weights = Tensor::<1>::from_data(weights, (&rows.device(), DType::F32));
        (rows * weights).sum().mul_scalar(self.options.hidden_weight)
    }

    /// D of every row, summed, `[1]`.
    fn divergence(&self, teacher: Tensor<2>, student: Tensor<2>) -> Tensor<1> {
        let (options, [rows, labels]) = (&self.options, teacher.dims());
        let cooled = |outputs: Tensor<2>| outputs.div_scalar(options.temperature);
        // Each label as two classes.
        let of_two = |outputs: Tensor<2>| {
            let outputs = cooled(outputs).reshape([rows * labels, 1]);
            let none = Tensor::zeros_like(&outputs);
            activation::log_softmax(Tensor::cat(vec![outputs, none], 1), 1)
        };
        let of_all = |outputs: Tensor<2>| activation::log_softmax(cooled(outputs), 1);
        match self.head.problem {
            Problem::Regression => (student - teacher).square().sum().div_scalar(labels as f64),
            Problem::SingleLabelClassification => between(options.beta, of_all(teacher), of_all(student)),
            Problem::MultiLabelClassification => {
                between(options.beta, of_two(teacher), of_two(student)).div_scalar(labels as f64)
            }
        }
    }

    /// Factor of D, beside its weight.
    fn factor(&self) -> f64 {
        let squares = self.options.t_squared && self.head.problem != Problem::Regression;
        if squares { self.options.temperature.powi(2) } else { 1.0 }
    }

    /// The loss, with what the layers before the last one came to; and the student's outputs.
    fn compare(
        &self,
        model: &Model,
        hidden: Tensor<3>,
        batch: &Batch,
        said: &Said,
        layers: Option<Tensor<1>>,
    ) -> (Loss, Tensor<2>) {
        let outputs = head_outputs(model, hidden.clone(), batch);
        let divergence = self.divergence(said.outputs.clone(), outputs.clone());
        let divergence = divergence.mul_scalar(self.factor());
        let labels = head_loss(self.head.problem, outputs.clone(), batch);
        let figure = |name, sum: Tensor<1>| Figure {
            name,
            sum: sum.without_autodiff(),
            count: batch.labelled(),
        };
        let mut loss = Loss {
            figures: vec![
                figure("labels", labels.clone()),
                figure("divergence", divergence.clone()),
            ],
            sum: divergence.mul_scalar(self.options.alpha) + labels.mul_scalar(1.0 - self.options.alpha),
        };
        let last = self
            .options
            .student_layers()
            .iter()
            .position(|layer| *layer == model.num_blocks());
        let last = last.map(|number| self.apart(model, rows_at(hidden, &said.tokens.cells), said, number));
        if let Some(apart) = layers.into_iter().chain(last).reduce(|a, b| a + b) {
            let unweighted = apart.clone().div_scalar(self.options.hidden_weight);
            loss.figures.push(figure("hidden", unweighted));
            loss.sum = loss.sum + apart;
        }
        (loss, outputs)
    }
}

/// The divergence of β, summed over rows, of log-probabilities `[n, classes]`.
fn between(beta: f64, teacher: Tensor<2>, student: Tensor<2>) -> Tensor<1> {
    let kl = |p: Tensor<2>, q: Tensor<2>| (p.clone().exp() * (p - q)).sum();
    if beta == 0.0 {
        return kl(teacher, student);
    }
    if beta == 1.0 {
        return kl(student, teacher);
    }
    let mixed = teacher.clone().exp().mul_scalar(beta) + student.clone().exp().mul_scalar(1.0 - beta);
    let mixed = mixed.log();
    kl(teacher, mixed.clone()).mul_scalar(beta) + kl(student, mixed).mul_scalar(1.0 - beta)
}

impl Objective for DistillLabels {
    fn unit(&self) -> Unit {
        Unit::Labels
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        let batch = &micro.batch;
        let said = Arc::new(self.ask(batch));
        let inner = LayerLoss {
            after: self.options.student_layers(),
            sum: {
                let said = said.clone();
                Box::new(move |model, number, hidden| {
                    self.apart(model, rows_at(hidden, &said.tokens.cells), &said, number)
                })
            },
        };
        LossFn::over_layers(inner, move |model, hidden, layers| {
            self.compare(model, hidden, batch, &said, layers).0
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let said = self.ask(batch);
        let own = States::of(model, batch, &self.options.student_layers(), &said.tokens.cells);
        let blocks = model.num_blocks();
        let before_last = own.after.into_iter().zip(self.options.student_layers()).enumerate();
        let before_last = before_last.filter(|(_, (_, layer))| *layer < blocks);
        let layers = before_last.map(|(number, (states, _))| self.apart(model, states, &said, number));
        let (loss, outputs) = self.compare(model, own.last, batch, &said, layers.reduce(|a, b| a + b));
        HeldOut {
            loss: read(loss.sum),
            count: batch.labelled(),
            nll: None,
            figures: loss
                .figures
                .into_iter()
                .map(|f| (f.name, read(f.sum), f.count))
                .collect(),
            said: Some(HeadAnswers::of(&self.head, outputs, batch)),
        }
    }
}
