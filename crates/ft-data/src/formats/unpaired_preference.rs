//! `unpaired-preference`: answers that people called good or bad, one by one.
//!
//! * `{"prompt", "completion", "label": true | false}`, as text or as lists of messages
//! * `{"messages" | "conversations", "label"}`, `{"user", "assistant", "label"}`: the last answer of the conversation is the one that is meant
//! * `{"instruction", "input", "output", "label"}`: as in [`instruct`](super::instruct), answers in the history being context
//!
//! The label may be called `kto_tag`.

use super::{Format, LABELS, Record, boolean, chat, instruct, prompt_completion, require_eos, wrong_kind};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct UnpairedPreference;

impl Format for UnpairedPreference {
    fn name(&self) -> &'static str {
        "unpaired-preference"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[
            &["prompt", "completion", "label"],
            &["messages", "label"],
            &["conversations", "label"],
            &["user", "assistant", "label"],
            &["instruction", "output", "label"],
            &["prompt", "completion", "kto_tag"],
            &["messages", "kto_tag"],
            &["conversations", "kto_tag"],
            &["user", "assistant", "kto_tag"],
            &["instruction", "output", "kto_tag"],
        ]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["input", "history", "system", "tools"]
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        require_eos(tokenizer)
    }

    fn examples(&self) -> super::Examples {
        super::Examples::Rated
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["prompt", "messages"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let good = label(record)?;
        let sample = if record.optional("completion").is_some() {
            chat::only(
                "completion",
                prompt_completion::PromptCompletion.samples(record, tokenizer)?,
            )?
        } else if record.optional("instruction").is_some() {
            instruct::answer_sample("output", record, &instruct::output(record)?, tokenizer)?
        } else {
            last_answer(record, tokenizer)?
        };
        Ok(vec![sample.rated(good)])
    }
}

fn last_answer(record: &Record, tokenizer: &Tokenizer) -> Result<Sample, Flaw> {
    let messages = chat::messages(record)?;
    match messages.last() {
        Some(last) if !chat::is_answer(last) => Err(Flaw::Message {
            index: messages.len(),
            what: "the label is about the last message, so it must be the assistant's".into(),
        }),
        _ => {
            let last = messages.len().saturating_sub(1);
            chat::one_sample("messages", &messages, chat::beside(record)?, last, tokenizer)
        }
    }
}

fn label(record: &Record) -> Result<bool, Flaw> {
    let found = LABELS.iter().find_map(|name| Some((*name, record.optional(name)?)));
    let Some((name, value)) = found else {
        return Err(Flaw::Preference(
            "no `label`: true for a good answer, false for a bad one".into(),
        ));
    };
    boolean(value).ok_or_else(|| wrong_kind(name, "true or false", value))
}
