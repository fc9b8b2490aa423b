//! `preference`: two answers to one prompt, of which people preferred the first.
//!
//! * `{"prompt", "chosen", "rejected"}`, as text or as (lists of) messages
//! * `{"chosen", "rejected"}`: both hold the prompt, which is what they have in common at the start
//! * `{"conversations" | "messages", "chosen", "rejected"}`: the prompt is a conversation, and the answers are messages
//! * `{"instruction", "input", "chosen", "rejected"}`
//!
//! Each answer is tokenized after the prompt as in [`prompt-completion`](super::prompt_completion) or [`chat`](super::chat), and
//! nothing else is learned.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{Format, Record, chat, prompt_completion, require_eos, text_of, wrong_kind};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(super) struct Preference;

impl Format for Preference {
    fn name(&self) -> &'static str {
        "preference"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["chosen", "rejected"]]
    }

    fn optional(&self) -> &'static [&'static str] {
        &[
            "prompt",
            "messages",
            "conversations",
            "instruction",
            "input",
            "system",
            "tools",
        ]
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        require_eos(tokenizer)
    }

    fn examples(&self) -> super::Examples {
        super::Examples::Pairs
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        let (chosen, rejected) = (record.value("chosen")?, record.value("rejected")?);
        for (name, answer) in [("chosen", chosen), ("rejected", rejected)] {
            if is_empty(answer) {
                return Err(Flaw::Preference(format!("`{name}` is empty")));
            }
        }
        if chosen == rejected {
            return Err(Flaw::Preference(
                "`chosen` and `rejected` are the same, so the pair says nothing".into(),
            ));
        }
        let pair = match (chosen, rejected) {
            (Value::String(chosen), Value::String(rejected)) if !is_conversation(record) => {
                texts(record, chosen, rejected, tokenizer)?
            }
            _ => conversations(record, chosen, rejected, tokenizer)?,
        };
        let [chosen, rejected] = pair;
        if chosen.ids == rejected.ids {
            return Err(Flaw::Preference("both answers have the same tokens".into()));
        }
        Ok(vec![chosen.over(rejected)])
    }
}

fn is_empty(answer: &Value) -> bool {
    match answer {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(messages) => messages.is_empty(),
        _ => false,
    }
}

/// Whether the prompt is given as messages.
fn is_conversation(record: &Record) -> bool {
    let named = ["messages", "conversations"]
        .iter()
        .any(|name| record.optional(name).is_some());
    named || record.optional("prompt").is_some_and(Value::is_array)
}

fn texts(record: &Record, chosen: &str, rejected: &str, tokenizer: &Tokenizer) -> Result<[Sample; 2], Flaw> {
    let (prompt, answers) = match prompt_text(record)? {
        Some(prompt) => (prompt, [chosen, rejected]),
        None => {
            let end = common_prompt(chosen, rejected);
            (chosen[..end].into(), [&chosen[end..], &rejected[end..]])
        }
    };
    let [chosen, rejected] = answers.map(|answer| prompt_completion::join(&prompt, answer, tokenizer));
    Ok([chosen?, rejected?])
}

/// The prompt where it has a field of its own.
fn prompt_text<'r>(record: &'r Record) -> Result<Option<Cow<'r, str>>, Flaw> {
    if let Some(prompt) = record.optional("prompt") {
        return text_of("prompt", prompt).map(Some);
    }
    if record.optional("instruction").is_none() {
        return Ok(None);
    }
    let (instruction, input) = (record.text("instruction")?, record.optional_text("input")?);
    Ok(Some(match input.is_empty() {
        true => instruction,
        false => format!("{instruction}\n{input}").into(),
    }))
}

/// Where two texts that begin with the same prompt part, at the beginning of a word: the space before it belongs to the answer, as
/// tokenizers have it.
fn common_prompt(a: &str, b: &str) -> usize {
    let same: usize = a
        .chars()
        .zip(b.chars())
        .take_while(|(x, y)| x == y)
        .map(|(c, _)| c.len_utf8())
        .sum();
    // Where one answer goes on where the other ends, the last word is theirs.
    let whole = same < a.len().min(b.len())
        && a[same..].starts_with(char::is_whitespace)
        && b[same..].starts_with(char::is_whitespace);
    let same = &a[..same];
    match whole || same.ends_with(char::is_whitespace) {
        true => same.trim_end().len(),
        false => same.rfind(char::is_whitespace).unwrap_or(0),
    }
}

fn conversations(
    record: &Record,
    chosen: &Value,
    rejected: &Value,
    tokenizer: &Tokenizer,
) -> Result<[Sample; 2], Flaw> {
    let mut prompt = vec![];
    let system = record.optional_text("system")?;
    if !system.is_empty() {
        prompt.push(json!({"role": "system", "content": system}));
    }
    for name in ["messages", "conversations"] {
        if record.optional(name).is_some() {
            prompt.extend(record.list(name)?.iter().cloned());
        }
    }
    match record.optional("prompt") {
        Some(Value::Array(messages)) => prompt.extend(messages.iter().cloned()),
        Some(text) => prompt.push(json!({"role": "user", "content": text_of("prompt", text)?})),
        None => {}
    }
    let (mut chosen, mut rejected) = (messages("chosen", chosen)?, messages("rejected", rejected)?);
    if prompt.iter().all(|message| message["role"] == "system") {
        // The last message of each is an answer even where they are alike.
        let shortest = chosen.len().min(rejected.len()).saturating_sub(1);
        let pairs = chosen.iter().zip(&rejected).take(shortest);
        let common = pairs.take_while(|(a, b)| a == b).count();
        if common == 0 {
            return Err(Flaw::Preference(
                "no prompt: `chosen` and `rejected` do not begin with the same messages, and there is no `prompt`"
                    .into(),
            ));
        }
        prompt.extend(chosen.drain(..common));
        rejected.drain(..common);
    }
    let tools = chat::tools(record)?;
    let answer = |name: &str, answer: Vec<Value>| {
        let all = [prompt.as_slice(), &answer].concat();
        chat::one_sample(name, &all, tools.clone(), prompt.len(), tokenizer)
    };
    Ok([answer("chosen", chosen)?, answer("rejected", rejected)?])
}

/// An answer as messages: a list, one message, or text.
fn messages(name: &str, answer: &Value) -> Result<Vec<Value>, Flaw> {
    match answer {
        Value::Array(messages) => Ok(messages.clone()),
        Value::Object(_) => Ok(vec![answer.clone()]),
        Value::String(text) => Ok(vec![json!({"role": "assistant", "content": text})]),
        other => Err(wrong_kind(name, "text or messages", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::common_prompt;

    #[test]
    fn the_common_prompt_ends_before_a_word() {
        let at = |a: &str, b: &str| a[..common_prompt(a, b)].to_owned();
        assert_eq!(
            at("Human: hi\n\nAssistant: Hello", "Human: hi\n\nAssistant: Help"),
            "Human: hi\n\nAssistant:"
        );
        assert_eq!(at("Q A: yes", "Q A: yes, no"), "Q A:");
        assert_eq!(at("Q A: yes no", "Q A: yes"), "Q A:");
        assert_eq!(at("Q: one two", "Q: one three"), "Q: one");
        assert_eq!(at("abc", "xyz"), "");
    }
}
