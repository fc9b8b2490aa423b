//! What stands on a model in the place of its language-model head: a classifier or a regression, of the whole text or of each token,
//! with the layers and names of transformers' `...ForSequenceClassification` and `...ForTokenClassification`.

mod config;

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, activation};
use ft_peft::{Norm, Pass, Projection, TargetModule};
use ft_quant::{Layout, Weight};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::model::Model;
use crate::source::{Fill, Source, centered_norm, projection};

/// What a head says, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// Of what it speaks.
    pub kind: HeadKind,
    /// The names of its outputs, in order: `id2label`.
    pub labels: Vec<String>,
    /// What the outputs are.
    pub problem: Problem,
}

/// Of what a head speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Of the whole text.
    Sequence,
    /// Of each token.
    Token,
}

/// What the outputs of a head are: transformers' `problem_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// Scores of classes, one of which is right.
    SingleLabelClassification,
    /// Scores of classes, any of which are right.
    MultiLabelClassification,
    /// Numbers.
    Regression,
}

impl Problem {
    /// What it is where nothing is said: one output is a number.
    pub fn of(labels: usize) -> Self {
        match labels {
            1 => Problem::Regression,
            _ => Problem::SingleLabelClassification,
        }
    }

    /// As transformers spells it.
    pub fn name(self) -> &'static str {
        match self {
            Problem::SingleLabelClassification => "single_label_classification",
            Problem::MultiLabelClassification => "multi_label_classification",
            Problem::Regression => "regression",
        }
    }
}

/// Which token of a text a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The first.
    First,
    /// The last.
    Last,
    /// The mean of all.
    Mean,
    /// Each.
    Each,
}

/// The layers of a family's head, by the paths that checkpoints have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLayers {
    /// A layer before the last.
    pub before: Option<Before>,
    /// The last layer.
    pub last: &'static str,
    /// Whether that has a bias.
    pub bias: bool,
    pub pool: Pool,
    /// What trains whatever the method.
    pub trained: &'static [&'static str],
}

impl HeadLayers {
    /// Where its layers are.
    pub fn paths(&self) -> Vec<&'static str> {
        let before = self.before.iter().flat_map(|before| [Some(before.path), before.norm]);
        before.flatten().chain([self.last]).collect()
    }

    fn trains(&self, path: &str) -> bool {
        let below = |rest: &str| rest.is_empty() || rest.starts_with('.');
        let modules = self.trained.iter();
        modules.filter_map(|module| path.strip_prefix(*module)).any(below)
    }
}

/// A layer before the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub path: &'static str,
    pub bias: bool,
    pub behind: Behind,
    /// A normalization without bias behind that.
    pub norm: Option<&'static str>,
}

/// What comes behind the layer before the last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behind {
    Tanh,
    Relu,
    Gelu,
}

/// Of a decoder: one matrix on the last token, or on each.
pub(crate) fn of_decoder(kind: HeadKind) -> HeadLayers {
    HeadLayers {
        before: None,
        last: "score",
        bias: kind == HeadKind::Token,
        pool: match kind {
            HeadKind::Sequence => Pool::Last,
            HeadKind::Token => Pool::Each,
        },
        trained: &["score"],
    }
}

/// A head in a model.
#[derive(Module, Debug)]
pub(crate) struct Head {
    before: Option<Projection>,
    norm: Option<Norm>,
    last: Projection,
}

impl Head {
    pub fn build(head: &HeadConfig, config: &ModelConfig, source: &mut impl Source) -> Self {
        let (layers, hidden) = (config.head_layers(head.kind), config.hidden_size);
        let mut layer = |path: &str, rows: usize, bias: bool| {
            // What trains is not held in codes.
            let weight = match layers.trains(path) {
                true => Weight::new(
                    source.matrix(&format!("{path}.weight"), [rows, hidden], Fill::Normal),
                    Layout::OutIn,
                ),
                false => source.weight(path, [rows, hidden], Layout::OutIn),
            };
            let bias = bias.then(|| source.vector(&format!("{path}.bias"), rows, Fill::Zeros));
            projection(weight, bias)
        };
        let before = layers.before.map(|before| layer(before.path, hidden, before.bias));
        let last = layer(layers.last, head.labels.len(), layers.bias);
        let norm = layers.before.and_then(|before| before.norm);
        Self {
            before,
            norm: norm.map(|path| centered_norm(path, hidden, config.norm_eps, source)),
            last,
        }
    }

    pub fn target_modules(&mut self, layers: HeadLayers) -> Vec<TargetModule<'_>> {
        let before = self.before.as_mut().zip(layers.before);
        let before = before.map(|(slot, before)| TargetModule::projection(before.path, slot));
        let norm = self.norm.as_mut().zip(layers.before.and_then(|before| before.norm));
        let norm = norm.map(|(slot, path)| TargetModule::norm(path, slot));
        let last = TargetModule::projection(layers.last, &mut self.last);
        before.into_iter().chain(norm).chain([last]).collect()
    }
}

impl Model {
    /// What the head says, where the model has one beside language modelling.
    pub fn head(&self) -> Option<&HeadConfig> {
        self.config().head.as_ref()
    }

    /// Whether the model writes text: it predicts the next token.
    pub fn writes(&self) -> bool {
        self.config().writes()
    }

    /// Which token of a text the head reads.
    ///
    /// # Panics
    /// Of a model without a head.
    pub fn pool(&self) -> Pool {
        self.head_layers().pool
    }

    fn head_layers(&self) -> HeadLayers {
        let head = self.head().expect("a model with a head");
        self.config().head_layers(head.kind)
    }

    /// Outputs `[n, labels]` in f32 of the head for the last hidden states `[n, hidden]` of the tokens that it reads.
    ///
    /// # Panics
    /// Of a model without a head.
    pub fn head_outputs(&self, hidden: Tensor<2>) -> Tensor<2> {
        let (head, layers) = (
            self.task_head.as_ref().expect("a model with a head"),
            self.head_layers(),
        );
        let hidden = match (&head.before, layers.before) {
            (Some(layer), Some(before)) => {
                let x = layer.forward(hidden, &Pass::eval());
                let x = match before.behind {
                    Behind::Tanh => activation::tanh(x),
                    Behind::Relu => activation::relu(x),
                    Behind::Gelu => activation::gelu(x),
                };
                match &head.norm {
                    None => x,
                    Some(norm) => norm.forward(x),
                }
            }
            _ => hidden,
        };
        head.last.forward(hidden, &Pass::eval()).cast(FloatDType::F32)
    }
}
