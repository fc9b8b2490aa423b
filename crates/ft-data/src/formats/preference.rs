//! `preference`: two answers to one prompt, of which people preferred the first.
//!
//! * `{"prompt", "chosen", "rejected"}`, as text or as (lists of) messages
//! * `{"chosen", "rejected"}`: both hold the prompt, which is what they have in common at the start: whole messages, or text up to where the
//!   first word that differs begins
//! * `{"conversations" | "messages", "chosen", "rejected"}`: the prompt is a conversation, and the answers are messages
//! * `{"instruction", "input", "chosen", "rejected"}`: a question as in [`instruct`](super::instruct)
//!
//! Each answer is tokenized after the prompt as in [`prompt-completion`](super::prompt_completion) or [`chat`](super::chat), and
//! nothing else is learned.

use std::borrow::Cow;

use serde_json::Value;

use super::{Format, Record, chat, instruct, list_of, prompt_completion, require_eos, wrong_kind};
use crate::error::{Flaw, Result};
use crate::sample::Sample;
use crate::template::common_prefix;
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
            "history",
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

    fn before_answers(&self) -> &'static [&'static str] {
        &["prompt"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        if record.value("chosen")? == record.value("rejected")? && record.optional("chosen").is_some() {
            return refused("`chosen` and `rejected` are the same, so the pair says nothing");
        }
        let [chosen, rejected] = match (answer(record, "chosen")?, answer(record, "rejected")?) {
            (Said::Text(chosen), Said::Text(rejected)) => texts(record, &chosen, &rejected, tokenizer)?,
            (chosen, rejected) => turns(record, &chosen.turns(), &rejected.turns(), tokenizer)?,
        };
        if chosen.ids == rejected.ids {
            return refused("both answers have the same tokens");
        }
        Ok(vec![chosen.over(rejected)])
    }
}

fn refused<T>(what: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Preference(what.into()))
}

/// What stands in a field that may be text or messages.
enum Said<'a> {
    Text(Cow<'a, str>),
    Turns(Cow<'a, [Value]>),
}

impl Said<'_> {
    /// As messages; text is an answer.
    fn turns(self) -> Vec<Value> {
        match self {
            Said::Text(text) => vec![chat::message("assistant", &text)],
            Said::Turns(messages) => messages.into_owned(),
        }
    }
}

fn said<'a>(record: &'a Record, name: &str) -> Result<Said<'a>, Flaw> {
    let value = record.value(name)?;
    let inside = value.get("messages").or(value.get("conversations"));
    Ok(match (value, inside) {
        (Value::Null, _) => Said::Text("".into()),
        (Value::Array(messages), _) => Said::Turns(messages.into()),
        (Value::Object(_), Some(messages)) => Said::Turns(list_of(name, messages)?),
        (Value::Object(_), None) if chat::role(value).is_some() => Said::Turns(std::slice::from_ref(value).into()),
        (Value::String(text), _) => match messages_in(text) {
            Some(messages) => Said::Turns(messages.into()),
            None => Said::Text(text.into()),
        },
        _ => return Err(wrong_kind(name, "text or messages", value)),
    })
}

/// CSV files hold messages as JSON text.
fn messages_in(text: &str) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let messages: Vec<Value> = serde_json::from_str(text).ok()?;
    let all = !messages.is_empty() && messages.iter().all(|message| chat::role(message).is_some());
    all.then_some(messages)
}

fn answer<'a>(record: &'a Record, name: &'static str) -> Result<Said<'a>, Flaw> {
    let answer = said(record, name)?;
    let empty = match &answer {
        Said::Text(text) => text.trim().is_empty(),
        Said::Turns(messages) => messages.iter().all(says_nothing),
    };
    match empty {
        true => refused(format!("`{name}` is empty")),
        false => Ok(answer),
    }
}

/// Not an answer of the assistant, or one without content and calls.
fn says_nothing(message: &Value) -> bool {
    let filled = |name: &str| {
        let value = message.get(name).filter(|value| !value.is_null());
        value.is_some_and(|value| {
            value.as_str().is_none_or(|text| !text.trim().is_empty()) && *value != Value::Array(vec![])
        })
    };
    chat::is_answer(message) && !["content", "value", "tool_calls"].into_iter().any(filled)
}

/// Where a record has its prompt.
enum Given<'a> {
    /// Only within the answers.
    Nothing,
    /// In the fields of `instruct`.
    Question,
    Said(Said<'a>),
}

fn given<'a>(record: &'a Record<'_>) -> Result<Given<'a>, Flaw> {
    for name in ["prompt", "conversations", "messages"] {
        if record.optional(name).is_some() {
            return match said(record, name)? {
                Said::Text(_) if name != "prompt" => Err(wrong_kind(name, "a list", record.value(name)?)),
                said => Ok(Given::Said(said)),
            };
        }
    }
    Ok(match record.optional("instruction") {
        Some(_) => Given::Question,
        None => Given::Nothing,
    })
}

fn texts(record: &Record, chosen: &str, rejected: &str, tokenizer: &Tokenizer) -> Result<[Sample; 2], Flaw> {
    let prompt = match given(record)? {
        Given::Question => {
            let answered = |name, text| instruct::answer_sample(name, record, text, tokenizer);
            return Ok([answered("chosen", chosen)?, answered("rejected", rejected)?]);
        }
        Given::Said(Said::Turns(_)) => {
            let [chosen, rejected] = [chosen, rejected].map(|text| [chat::message("assistant", text)]);
            return turns(record, &chosen, &rejected, tokenizer);
        }
        Given::Said(Said::Text(prompt)) => Some(prompt),
        Given::Nothing => None,
    };
    if !record.optional_text("system")?.is_empty() {
        return refused("`system` has no place beside a prompt of plain text; write it into `prompt` with data.map");
    }
    let (prompt, answers) = match prompt {
        Some(prompt) => (prompt, [chosen, rejected]),
        None => {
            let end = common_prompt(chosen, rejected);
            if end == 0 {
                return refused(
                    "no prompt: `chosen` and `rejected` do not begin with the same words; give it as `prompt`, empty if there is none",
                );
            }
            (chosen[..end].into(), [&chosen[end..], &rejected[end..]])
        }
    };
    let [chosen, rejected] = answers.map(|answer| prompt_completion::join(&prompt, answer, tokenizer));
    Ok([chosen?, rejected?])
}

/// Where two texts that begin with the same prompt part, at the beginning of a word: a space before it belongs to the answer, as
/// tokenizers have it, and other white space to the prompt. 0 when nothing is left.
fn common_prompt(a: &str, b: &str) -> usize {
    let same = common_prefix(a, b);
    let (prompt, rests) = (&a[..same], [&a[same..], &b[same..]]);
    let parted = prompt.ends_with(char::is_whitespace) && rests.iter().all(|rest| !rest.is_empty())
        || rests.iter().all(|rest| rest.starts_with(char::is_whitespace));
    // Where one answer goes on where the other ends, the last word is theirs.
    let end = match parted {
        true => same,
        false => prompt
            .trim_end()
            .rfind(char::is_whitespace)
            .map_or(0, |at| at + a[at..].chars().next().map_or(0, char::len_utf8)),
    };
    let prompt = &a[..end];
    let prompt = prompt.strip_suffix(' ').unwrap_or(prompt);
    if prompt.trim().is_empty() { 0 } else { prompt.len() }
}

fn turns(record: &Record, chosen: &[Value], rejected: &[Value], tokenizer: &Tokenizer) -> Result<[Sample; 2], Flaw> {
    let whole = [chosen, rejected].map(|messages| !chat::is_answer(&messages[0]));
    let (mut prompt, [chosen, rejected]) = match whole {
        [true, true] => {
            let common = common_messages(chosen, rejected)?;
            let prompt = agreed(record, &chosen[..common])?;
            (prompt, [&chosen[common..], &rejected[common..]])
        }
        [false, false] => (asked(record)?, [chosen, rejected]),
        _ => return refused("one of `chosen` and `rejected` holds a whole conversation and the other only an answer"),
    };
    if !prompt.first().is_some_and(is_system) {
        prompt.splice(0..0, chat::system(record)?);
    }
    let beside = chat::beside(record)?;
    let sample = |name: &str, answer: &[Value]| {
        if answer
            .iter()
            .filter(|message| chat::is_answer(message))
            .all(says_nothing)
        {
            return refused(format!("`{name}` is empty"));
        }
        let messages = [prompt.as_slice(), answer].concat();
        chat::one_sample(name, &messages, beside.clone(), prompt.len(), tokenizer)
    };
    Ok([sample("chosen", chosen)?, sample("rejected", rejected)?])
}

fn is_system(message: &Value) -> bool {
    matches!(chat::role(message), Some("system" | "developer"))
}

/// How many messages two whole conversations have in common at the start. What follows is an answer in both, even where they are alike.
fn common_messages(chosen: &[Value], rejected: &[Value]) -> Result<usize, Flaw> {
    let same = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
    let first = same.min(chosen.len() - 1).min(rejected.len() - 1);
    match [chosen, rejected]
        .iter()
        .all(|messages| chat::is_answer(&messages[first]))
    {
        true => Ok(first),
        false => refused(format!(
            "`chosen` and `rejected` part at message {}, which is not the assistant's in both, so they answer different prompts",
            first + 1
        )),
    }
}

/// The prompt of whole conversations: what they have in `common`, unless something else is given as the prompt.
fn agreed(record: &Record, common: &[Value]) -> Result<Vec<Value>, Flaw> {
    let agrees = match given(record)? {
        Given::Nothing => true,
        Given::Question => instruct::question(record)?.last() == common.last(),
        Given::Said(Said::Text(prompt)) => common.iter().any(|message| {
            ["content", "value"]
                .iter()
                .any(|name| message[*name].as_str() == Some(&prompt))
        }),
        Given::Said(Said::Turns(prompt)) if prompt.iter().all(is_system) && !common.first().is_some_and(is_system) => {
            return Ok([&*prompt, common].concat());
        }
        Given::Said(Said::Turns(prompt)) => common.starts_with(&prompt) || prompt.starts_with(common),
    };
    match agrees {
        true => Ok(common.to_vec()),
        false => refused(
            "`chosen` and `rejected` hold whole conversations that do not begin with the prompt that is given as well; leave that out with data.map",
        ),
    }
}

/// The prompt of answers that stand alone, as messages.
fn asked(record: &Record) -> Result<Vec<Value>, Flaw> {
    match given(record)? {
        Given::Nothing => refused("no prompt: `chosen` and `rejected` begin with answers; give it as `prompt`"),
        Given::Question => instruct::question(record),
        Given::Said(Said::Text(prompt)) => Ok(vec![chat::message("user", &prompt)]),
        Given::Said(Said::Turns(prompt)) => Ok(prompt.into_owned()),
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
        assert_eq!(at("A:\nyes", "A:\nno"), "A:\n");
        assert_eq!(at("a\u{3000}x", "a\u{3000}y"), "a\u{3000}");
        assert_eq!(at("abc", "xyz"), "");
    }
}
