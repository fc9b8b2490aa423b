//! `unpaired-preference`: answers that people called good or bad, one by one.
//!
//! * `{"prompt", "completion", "label": true | false}`, as text or as lists of messages
//! * `{"messages" | "conversations", "label" | "kto_tag"}`: the last answer of the conversation is the one that is meant

use serde_json::{Value, json};

use super::{Format, Record, chat, list_of, prompt_completion, require_eos, wrong_kind};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct UnpairedPreference;

/// The fields that hold the rating.
const LABELS: [&str; 2] = ["label", "kto_tag"];

impl Format for UnpairedPreference {
    fn name(&self) -> &'static str {
        "unpaired-preference"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[
            &["prompt", "completion", "label"],
            &["messages", "label"],
            &["conversations", "label"],
            &["prompt", "completion", "kto_tag"],
            &["messages", "kto_tag"],
            &["conversations", "kto_tag"],
        ]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["system", "tools"]
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        require_eos(tokenizer)
    }

    fn examples(&self) -> super::Examples {
        super::Examples::Rated
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let good = label(record)?;
        let sample = match record.optional("prompt") {
            Some(Value::Array(prompt)) => {
                let completion = list_of("completion", record.value("completion")?)?;
                let messages = [prompt.as_slice(), &completion].concat();
                chat::one_sample("completion", &messages, chat::tools(record)?, prompt.len(), tokenizer)?
            }
            Some(_) => prompt_completion::join(&record.text("prompt")?, &record.text("completion")?, tokenizer)?,
            None => last_answer(record, tokenizer)?,
        };
        Ok(vec![sample.rated(good)])
    }
}

fn last_answer(record: &Record, tokenizer: &Tokenizer) -> Result<Sample, Flaw> {
    let mut messages = vec![];
    let system = record.optional_text("system")?;
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    let name = match record.optional("messages") {
        Some(_) => "messages",
        None => "conversations",
    };
    messages.extend(record.list(name)?.iter().cloned());
    let last = messages.len().saturating_sub(1);
    chat::one_sample(name, &messages, chat::tools(record)?, last, tokenizer)
}

fn label(record: &Record) -> Result<bool, Flaw> {
    let found = LABELS.iter().find_map(|name| Some((*name, record.optional(name)?)));
    let Some((name, value)) = found else {
        return Err(Flaw::Preference(
            "no `label`: true for a good answer, false for a bad one".into(),
        ));
    };
    match value {
        Value::Bool(good) => Ok(*good),
        Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong_kind(name, "true or false", value)),
        },
        other => Err(wrong_kind(name, "true or false", other)),
    }
}
