//! Chat templates by name (`data.chat_template = "llama3"`), for tokenizers that have none or a broken one. One file and one line each.
//!
//! They are our own, print what the families' official templates print, mark what the assistant says with `{% generation %}`, and refuse
//! what a family has no form for. `tests/fixtures/named_templates` holds what transformers makes of the official ones.

use crate::error::{Error, Result, did_you_mean};
use crate::tokenizer::Tokenizer;

/// A template, and the token that ends its answers where that is not the tokenizer's own EOS.
pub(super) struct Named {
    pub name: &'static str,
    pub end: Option<&'static str>,
    source: &'static str,
}

macro_rules! named {
    ($($name:literal $end:expr;)*) => {
        &[$(Named { name: $name, end: $end, source: include_str!(concat!("named/", $name, ".jinja")) },)*]
    };
}

pub(super) static NAMED: &[Named] = named! {
    "chatml" Some("<|im_end|>");
    "deepseek-r1" Some("<｜end▁of▁sentence｜>");
    "deepseek-v3" Some("<｜end▁of▁sentence｜>");
    "gemma3" Some("<end_of_turn>");
    "gpt-oss" Some("<|return|>");
    "llama3" Some("<|eot_id|>");
    "llama3.1" Some("<|eot_id|>");
    "llama3.2" Some("<|eot_id|>");
    "mistral-v3" None;
    "mistral-v3-tekken" None;
    "mistral-v7-tekken" None;
    "phi4" Some("<|im_end|>");
    "qwen2.5" Some("<|im_end|>");
    "qwen3" Some("<|im_end|>");
    "smollm2" Some("<|im_end|>");
    "smollm3" Some("<|im_end|>");
    "zephyr" None;
};

/// The names of the built-in chat templates, in alphabetical order.
pub fn template_names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|named| named.name)
}

/// The source of a built-in chat template.
pub fn named_template(name: &str) -> Option<&'static str> {
    find(name).map(|named| named.source)
}

fn find(name: &str) -> Option<&'static Named> {
    NAMED.iter().find(|named| named.name == name)
}

impl Tokenizer {
    /// This tokenizer with a built-in chat template.
    ///
    /// # Errors
    /// No template of this name, or a tokenizer that has no token for the end of its answers.
    pub fn with_named_template(self, name: &str) -> Result<Tokenizer> {
        let fail = |what: String| Error::Config {
            key: "chat_template".into(),
            what,
        };
        let Some(named) = find(name) else {
            let names: Vec<&str> = template_names().collect();
            return Err(fail(format!(
                "{name}: no such file, and no built-in template of this name{}; those are {}",
                did_you_mean(name, &names),
                names.join(", ")
            )));
        };
        let end = match named.end {
            Some(token) => self.token_to_id(token).filter(|id| self.is_special(*id)),
            None => self.eos_id(),
        };
        if end.is_none() {
            return Err(fail(format!(
                "{name} ends answers with {}, which this tokenizer does not have as a special token; choose a template whose tokens it has",
                named.end.unwrap_or("EOS")
            )));
        }
        self.with_chat_template(named.source)
    }
}
