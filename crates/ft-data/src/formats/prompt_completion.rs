//! `prompt-completion`: `{"prompt": "..", "completion": ".."}`, as text or as lists of messages.
//!
//! Prompt and completion are tokenized separately, as they are when the model is used: special tokens once at the start, EOS at the end; the loss
//! covers the completion and EOS. A completion that is a list of texts holds several answers to the prompt: each is a sample, and where
//! answers are compared they are each other's alternatives. With lists of messages the chat template decides, and the answers in the
//! completion are learned.

use serde_json::Value;

use super::{Format, Record, chat, close, encode, list_of, require_eos, text_of};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct PromptCompletion;

impl Format for PromptCompletion {
    fn name(&self) -> &'static str {
        "prompt-completion"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["prompt", "completion"]]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["tools"]
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        require_eos(tokenizer)
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["prompt"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        match (record.value("prompt")?, record.value("completion")?) {
            (Value::Array(_), Value::Array(_)) => return conversation(record, tokenizer),
            (_, Value::Array(answers)) => {
                let prompt = record.text("prompt")?;
                let answer = |answer| join(&prompt, &text_of("completion", answer)?, tokenizer);
                return match answers.is_empty() {
                    true => Err(Flaw::NothingToLearn("the completion is an empty list")),
                    false => answers.iter().map(answer).collect(),
                };
            }
            _ => {}
        }
        let (prompt, completion) = (record.text("prompt")?, record.text("completion")?);
        Ok(vec![join(&prompt, &completion, tokenizer)?])
    }
}

fn conversation(record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
    let prompt = list_of("prompt", record.value("prompt")?)?;
    let completion = list_of("completion", record.value("completion")?)?;
    let messages = [&*prompt, &*completion].concat();
    chat::learn(&messages, chat::beside(record)?, prompt.len(), tokenizer)
}

/// Prompt, then completion, then EOS.
pub(super) fn join(prompt: &str, completion: &str, tokenizer: &Tokenizer) -> Result<Sample, Flaw> {
    if completion.is_empty() {
        return Err(Flaw::NothingToLearn("the completion is empty"));
    }
    let mut ids = tokenizer.opened(encode(tokenizer, prompt)?);
    let prompt_length = ids.len();
    ids.extend(encode(tokenizer, completion)?);
    close(tokenizer, &mut ids);
    Ok(Sample::answered(ids, prompt_length))
}
