//! The section `[data.augment]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OperatorConfig;
use crate::error::{Error, Result};

/// Training records made from those that are there. Held-out records are never changed, and never made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Copies that are made of each training record, beside it (EDA's `num_aug`).
    #[serde(default = "one")]
    pub copies: usize,
    /// Fields of the format that change; left out, those before the answer: the prompt, the instruction and its input, the turns
    /// that are not the assistant's. Answers change where their field is named here, and not otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Whether each copy is made by one operator, drawn at random, or by all of them in turn.
    #[serde(default)]
    pub apply: Apply,
    /// The operators: `[{ kind = "synonyms", alpha = 0.1 }, { kind = "swap" }]`.
    pub operators: Vec<OperatorConfig>,
    /// What may change although it is kept otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub change: Vec<Protected>,
}

/// How the operators make a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Apply {
    /// One, drawn at random (EDA).
    #[default]
    One,
    /// All in turn (nlpaug's `Sequential`).
    All,
}

/// Words that are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protected {
    /// Words with digits.
    Numbers,
    /// Capitalized words inside a sentence, and words in capitals.
    Names,
    /// Not, never, without and their like.
    Negations,
}

fn one() -> usize {
    1
}

impl AugmentConfig {
    /// Checks what can be checked without data.
    ///
    /// # Errors
    /// [`Error::Config`] for no copies, no operators, and rates out of range.
    pub fn check(&self) -> Result<()> {
        let fail = |key: &str, what: String| Err(Error::Config { key: key.into(), what });
        if !(1..=100).contains(&self.copies) {
            return fail("augment.copies", format!("{}: from 1 to 100", self.copies));
        }
        if self.operators.is_empty() {
            return fail(
                "augment.operators",
                format!("none given; there are: {}", OperatorConfig::NAMES.join(", ")),
            );
        }
        if let Some(error) = super::asked::mixed(self) {
            return Err(error);
        }
        for operator in &self.operators {
            if let Some(what) = operator.wrong() {
                return fail("augment.operators", format!("{}: {what}", operator.name()));
            }
        }
        Ok(())
    }
}
