//! `instruct`: Alpaca records `{"instruction", "input", "output"}`, optionally with `system` and `history` (earlier pairs).
//!
//! With a chat template in the tokenizer they become a conversation; without one, headed sections that base models learn easily.

use std::borrow::Cow;

use serde_json::Value;

use super::chat::Beside;
use super::{Format, Record, chat, list_of, prompt_completion, require_eos, wrong_kind};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct Instruct;

impl Format for Instruct {
    fn name(&self) -> &'static str {
        "instruct"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["instruction", "output"]]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["input", "system", "history"]
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        require_eos(tokenizer)
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["instruction", "input"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let output = output(record)?;
        if tokenizer.chat_template().is_some() {
            return chat::learn(&conversation(record, &output)?, Beside::default(), 0, tokenizer);
        }
        Ok(vec![prompt_completion::join(&sections(record)?, &output, tokenizer)?])
    }
}

/// The field `output`, which must say something.
pub(super) fn output<'a>(record: &'a Record<'_>) -> Result<Cow<'a, str>, Flaw> {
    let output = record.text("output")?;
    match output.is_empty() {
        true => Err(Flaw::NothingToLearn("the output is empty")),
        false => Ok(output),
    }
}

/// The question of a record with `answer`, which is from the field `name` and alone is learned.
pub(super) fn answer_sample(name: &str, record: &Record, answer: &str, tokenizer: &Tokenizer) -> Result<Sample, Flaw> {
    if tokenizer.chat_template().is_none() {
        return prompt_completion::join(&sections(record)?, answer, tokenizer);
    }
    let messages = conversation(record, answer)?;
    chat::one_sample(name, &messages, Beside::default(), messages.len() - 1, tokenizer)
}

fn conversation(record: &Record, answer: &str) -> Result<Vec<Value>, Flaw> {
    let mut messages = question(record)?;
    messages.push(chat::message("assistant", answer));
    Ok(messages)
}

/// The conversation up to where the answer is due.
pub(super) fn question(record: &Record) -> Result<Vec<Value>, Flaw> {
    let mut messages = chat::system(record)?;
    for (user, assistant) in history(record)? {
        messages.push(chat::message("user", &user));
        messages.push(chat::message("assistant", &assistant));
    }
    let (instruction, input) = (record.text("instruction")?, record.optional_text("input")?);
    let question = if input.is_empty() {
        instruction.into_owned()
    } else {
        format!("{instruction}\n{input}")
    };
    messages.push(chat::message("user", &question));
    Ok(messages)
}

fn history(record: &Record) -> Result<Vec<(String, String)>, Flaw> {
    let Some(value) = record.optional("history") else {
        return Ok(vec![]);
    };
    let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(user), Value::String(assistant)]) => Ok((user.clone(), assistant.clone())),
        _ => Err(wrong_kind("history", "a list of [question, answer] pairs", pair)),
    };
    list_of("history", value)?.iter().map(pair).collect()
}

fn sections(record: &Record) -> Result<String, Flaw> {
    let mut text = String::new();
    let mut section = |title: &str, body: &str| {
        if !body.is_empty() {
            text.push_str(&format!("### {title}:\n{body}\n\n"));
        }
    };
    section("System", &record.optional_text("system")?);
    for (user, assistant) in history(record)? {
        section("Instruction", &user);
        section("Response", &assistant);
    }
    section("Instruction", &record.text("instruction")?);
    section("Input", &record.optional_text("input")?);
    text.push_str("### Response:\n");
    Ok(text)
}
