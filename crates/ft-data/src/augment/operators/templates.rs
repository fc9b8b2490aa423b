//! Prompt templates: the text, word for word, inside one of several wordings.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operator;
use crate::augment::Protected;
use crate::error::Result;
use ft_seed::below;

/// Where the text goes.
const TEXT: &str = "{text}";

/// Options of `templates`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Wordings with `{text}` in them: `["Question: {text}\nAnswer:"]`. One is drawn for each text.
    pub templates: Vec<String>,
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        let without = self
            .templates
            .iter()
            .find(|template| template.matches(TEXT).count() != 1);
        match without {
            Some(template) => Some(format!("{template:?} should hold {TEXT} once")),
            None => self
                .templates
                .is_empty()
                .then(|| "`templates` is missing or empty".into()),
        }
    }
}

/// The operator.
pub fn build(options: &Options) -> Result<Box<dyn Operator>> {
    Ok(Box::new(options.clone()))
}

impl Operator for Options {
    fn apply(&self, source: &str, _: &[Protected], rng: &mut ChaCha8Rng) -> String {
        self.templates[below(rng, self.templates.len())].replace(TEXT, source)
    }
}
