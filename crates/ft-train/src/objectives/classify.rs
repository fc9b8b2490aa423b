//! Classification and regression by a head beside the language model, with the losses of transformers'
//! `AutoModelForSequenceClassification` and `AutoModelForTokenClassification`:
//!
//! ```text
//! single_label_classification    L = -log softmax(outputs)[label]
//! multi_label_classification     L = mean over labels of  -y log σ(x) - (1 - y) log(1 - σ(x))
//! regression                     L = mean over outputs of (x - y)²
//! ```
//!
//! The head reads the hidden state of one token of a text (the last of a decoder, the first of an encoder), or of the first token of
//! every word. It trains with every method, and is saved with the adapter as PEFT's `modules_to_save`.

use std::sync::Arc;

use ft_data::{Batch, Examples};
use ft_eval::{HeadAnswers, head_loss, head_outputs};
use ft_model::{HeadConfig, HeadKind, Model, ModelConfig, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Unit, plain_hidden, read};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

/// Options of classification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifyConfig {
    /// Names of the classes, or of the numbers of a regression, in the order of the head's outputs. Left out, those in the model's
    /// `config.json` (`id2label`), where its class has a head of this kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How many labels there are, where they need no names: LABEL_0, LABEL_1 and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
    /// What the outputs are. Left out, what `config.json` says for labels that are its own; else a regression of one label, and one class
    /// of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<Problem>,
    /// Of what the head speaks.
    pub level: Level,
}

/// Of what a head speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Of the whole text.
    #[default]
    Sequence,
    /// Of every word, by its first token.
    Token,
}

impl Level {
    fn kind(self) -> HeadKind {
        match self {
            Level::Sequence => HeadKind::Sequence,
            Level::Token => HeadKind::Token,
        }
    }
}

impl ObjectiveKind for ClassifyConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut names: Vec<&String> = self.labels.iter().collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
            wrong.push(format!("objective.labels: \"{}\" is there twice", twice[0]));
        }
        if self.num_labels == Some(0) {
            wrong.push("objective.num_labels: must be at least 1".into());
        }
        if let Some(count) = self
            .num_labels
            .filter(|n| !self.labels.is_empty() && *n != self.labels.len())
        {
            let named = self.labels.len();
            wrong.push(format!(
                "objective.num_labels: {count}, and objective.labels names {named}; leave one of them out"
            ));
        }
        let several = self
            .problem_type
            .is_some_and(|problem| problem != Problem::SingleLabelClassification);
        if self.level == Level::Token && several {
            wrong.push(
                "objective.problem_type: a token has one class; leave it out, or set objective.level = \"sequence\""
                    .into(),
            );
        }
        wrong
    }

    fn examples(&self) -> Examples {
        Examples::Labelled
    }

    fn head(&self, own: &ModelConfig) -> std::result::Result<Option<HeadConfig>, String> {
        let kind = self.level.kind();
        let named = match (self.labels.as_slice(), self.num_labels) {
            ([], Some(count)) => (0..count).map(|id| format!("LABEL_{id}")).collect(),
            (names, _) => names.to_vec(),
        };
        let stated = own.head.as_ref().filter(|head| head.kind == kind);
        let head = match (named.is_empty(), stated) {
            (true, None) => {
                return Err("objective.labels: name the classes (or the number that is learned): config.json of this model has no head \
                            that would say them"
                    .into());
            }
            (true, Some(head)) => head.clone(),
            (false, Some(head)) if head.labels == named => head.clone(),
            (false, _) => HeadConfig {
                kind,
                problem: if kind == HeadKind::Token {
                    Problem::SingleLabelClassification
                } else {
                    Problem::of(named.len())
                },
                labels: named,
            },
        };
        let problem = self.problem_type.unwrap_or(head.problem);
        if problem == Problem::SingleLabelClassification && head.labels.len() < 2 {
            return Err("objective.labels: one class alone is always right; name at least two".into());
        }
        Ok(Some(HeadConfig { problem, ..head }))
    }

    fn build(&self, given: &Given<'_>) -> Result<Arc<dyn Objective>> {
        let head = given.base().head().cloned();
        let why = "objective.kind = \"classify\" needs a model with a head";
        let head = head.ok_or_else(|| crate::Error::Plan(vec![why.into()]))?;
        Ok(Arc::new(Classify { head }))
    }
}

#[derive(Debug)]
struct Classify {
    head: HeadConfig,
}

impl Objective for Classify {
    fn unit(&self) -> Unit {
        Unit::Labels
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        LossFn::new(|model, hidden| Loss {
            sum: head_loss(
                self.head.problem,
                head_outputs(model, hidden, &micro.batch),
                &micro.batch,
            ),
            figures: Vec::new(),
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        let outputs = head_outputs(model, plain_hidden(model, batch), batch);
        HeldOut {
            loss: read(head_loss(self.head.problem, outputs.clone(), batch)),
            count: batch.labelled(),
            said: Some(HeadAnswers::of(&self.head, outputs, batch)),
            ..HeldOut::default()
        }
    }
}
