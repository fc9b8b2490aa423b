//! Paraphrase: a model says the same in other words; what lost a number, a name, a negation or code on the way is left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operator;
use crate::augment::asked::{AskedModel, Asking, TEXT, needs_text};
use crate::error::Result;

/// Options of `paraphrase`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The model that is asked.
    pub by: AskedModel,
    /// What it is asked, with `{text}` in it.
    #[serde(default = "prompt")]
    pub prompt: String,
}

fn prompt() -> String {
    format!(
        "Say the following text in other words. Keep its meaning; keep numbers, names and code as they are. Answer with the new text \
         and nothing else.\n\n{TEXT}"
    )
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        self.by.wrong("by").or_else(|| needs_text("prompt", &self.prompt))
    }

    fn asks(&self) -> Vec<Asking> {
        vec![Asking {
            by: self.by.clone(),
            prompt: self.prompt.clone(),
        }]
    }
}

/// The operator, where no model can be asked.
pub fn build(_: &Options) -> Result<Box<dyn Operator>> {
    Err(super::asks_a_model("paraphrase"))
}
