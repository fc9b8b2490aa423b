//! Back-translation (Sennrich et al. 2016, arXiv:1511.06709): one model translates the text, another one translates that back; checked as a
//! paraphrase is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operator;
use crate::augment::asked::{AskedModel, Asking, TEXT, needs_text};
use crate::error::Result;

/// Options of `back_translation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The model that translates.
    pub there: AskedModel,
    /// The model that translates back; the same where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<AskedModel>,
    /// What the first one is asked, with `{text}` in it.
    #[serde(default = "there_prompt")]
    pub there_prompt: String,
    /// What the second one is asked, with `{text}` in it.
    #[serde(default = "back_prompt")]
    pub back_prompt: String,
}

fn there_prompt() -> String {
    into("German")
}

fn back_prompt() -> String {
    into("English")
}

fn into(language: &str) -> String {
    format!("Translate the following text into {language}. Answer with the translation and nothing else.\n\n{TEXT}")
}

impl super::Options for Options {
    fn wrong(&self) -> Option<String> {
        let back = || self.back.as_ref().and_then(|model| model.wrong("back"));
        let there = self.there.wrong("there").or_else(back);
        there
            .or_else(|| needs_text("there_prompt", &self.there_prompt))
            .or_else(|| needs_text("back_prompt", &self.back_prompt))
    }

    fn asks(&self) -> Vec<Asking> {
        let back = self.back.as_ref().unwrap_or(&self.there);
        let ask = |(by, prompt): (&AskedModel, &String)| Asking {
            by: by.clone(),
            prompt: prompt.clone(),
        };
        [(&self.there, &self.there_prompt), (back, &self.back_prompt)]
            .map(ask)
            .into()
    }
}

/// The operator, where no model can be asked.
pub fn build(_: &Options) -> Result<Box<dyn Operator>> {
    Err(super::asks_a_model("back_translation"))
}
