//! `chat`: conversations, rendered by the tokenizer's own template; the assistant's turns are learned, stop token included.
//!
//! * OpenAI: `{"messages": [{"role", "content", ..}], "tools", "documents"}`
//! * ShareGPT: `{"conversations": [{"from": "human" | "gpt" | "system" | "function_call" | "observation", "value"}], "system", "tools"}`
//! * one exchange: `{"user": "..", "assistant": "..", "system"}`, handy with `data.map`

use std::ops::Range;

use serde_json::{Value, json};

use super::{Format, Record, boolean, list_of};
use crate::error::{Flaw, Result, kind};
use crate::sample::Sample;
use crate::template::{Conversation, Rendered, render_turns};
use crate::tokenizer::{Token, Tokenizer, no_template};

pub(super) struct Chat;

impl Format for Chat {
    fn name(&self) -> &'static str {
        "chat"
    }

    fn shapes(&self) -> &'static [&'static [&'static str]] {
        &[&["messages"], &["conversations"], &["user", "assistant"]]
    }

    fn optional(&self) -> &'static [&'static str] {
        &["system", "tools", "documents"]
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        tokenizer.chat_template().map(|_| ()).ok_or_else(no_template)
    }

    fn before_answers(&self) -> &'static [&'static str] {
        &["messages", "conversations", "user"]
    }

    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw> {
        learn(&messages(record)?, beside(record)?, 0, tokenizer)
    }
}

/// The whole conversation of a record.
pub(super) fn messages(record: &Record) -> Result<Vec<Value>, Flaw> {
    let mut messages = system(record)?;
    if record.optional("conversations").is_some() {
        messages.extend(record.list("conversations")?.iter().cloned());
    } else if record.optional("user").is_some() {
        let answer = record.text("assistant")?;
        if answer.is_empty() {
            return Err(Flaw::NothingToLearn("the answer is empty"));
        }
        messages.push(message("user", &record.text("user")?));
        messages.push(message("assistant", &answer));
    } else {
        messages.extend(record.list("messages")?.iter().cloned());
    }
    Ok(messages)
}

/// The field `system` as a message, if it says something.
pub(super) fn system(record: &Record) -> Result<Vec<Value>, Flaw> {
    let system = record.optional_text("system")?;
    Ok(match system.is_empty() {
        true => vec![],
        false => vec![message("system", &system)],
    })
}

pub(super) fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The role of a message as written, in the OpenAI or the ShareGPT shape.
pub(super) fn role(message: &Value) -> Option<&str> {
    message.get("role").or(message.get("from")).and_then(Value::as_str)
}

/// Whether the user says it.
pub(crate) fn is_question(message: &Value) -> bool {
    matches!(role(message), Some("user" | "human"))
}

/// Whether the assistant says it.
pub(super) fn is_answer(message: &Value) -> bool {
    matches!(role(message), Some("assistant" | "gpt" | "function_call"))
}

/// What a conversation has beside its messages.
#[derive(Clone, Default)]
pub(super) struct Beside {
    tools: Option<Value>,
    documents: Option<Value>,
}

/// The fields `tools` and `documents`: lists, or the JSON text of them.
pub(super) fn beside(record: &Record) -> Result<Beside, Flaw> {
    let list = |name: &'static str| match record.optional(name).filter(|list| list.as_str() != Some("")) {
        Some(list) => {
            let list = list_of(name, list)?.into_owned();
            Ok(Some(Value::Array(list)).filter(|list| list != &json!([])))
        }
        None => Ok(None),
    };
    Ok(Beside {
        tools: list("tools")?,
        documents: list("documents")?,
    })
}

/// The samples of a conversation in which the assistant's messages from index `first` on are learned.
pub(super) fn learn(
    messages: &[Value],
    beside: Beside,
    first: usize,
    tokenizer: &Tokenizer,
) -> Result<Vec<Sample>, Flaw> {
    let flawed = |i: usize| move |what| Flaw::Message { index: i + 1, what };
    let standard = |(i, m)| standard(m).map_err(flawed(i));
    let context = messages.iter().enumerate().map(|(i, m)| match is_answer(m) {
        true => is_context(m).map_err(flawed(i)),
        false => Ok(false),
    });
    let context = context.collect::<Result<Vec<bool>, _>>()?;
    let conversation = Conversation {
        messages: messages.iter().enumerate().map(standard).collect::<Result<_, _>>()?,
        tools: beside.tools,
        documents: beside.documents,
    };
    let answers = conversation.messages.iter().enumerate().skip(first);
    let answers: Vec<usize> = answers
        .filter(|(_, m)| m["role"] == "assistant")
        .map(|(i, _)| i)
        .collect();
    let learned: Vec<usize> = answers.iter().copied().filter(|i| !context[*i]).collect();
    if answers.is_empty() {
        return Err(Flaw::NothingToLearn("no message of the assistant"));
    }
    if learned.is_empty() {
        return Err(Flaw::NothingToLearn(
            "every message of the assistant is marked as context",
        ));
    }
    let template = tokenizer
        .chat_template()
        .ok_or_else(|| Flaw::Template(no_template().to_string()))?;
    let texts = render_turns(template, tokenizer, &conversation, &learned)?;
    texts.iter().map(|rendered| tokenize(rendered, tokenizer)).collect()
}

/// The one sample of a conversation whose messages from index `first` on are the answer `name`.
pub(super) fn one_sample(
    name: &str,
    messages: &[Value],
    beside: Beside,
    first: usize,
    tokenizer: &Tokenizer,
) -> Result<Sample, Flaw> {
    only(name, learn(messages, beside, first, tokenizer)?)
}

/// The one sample of the answer `name`.
pub(super) fn only(name: &str, mut samples: Vec<Sample>) -> Result<Sample, Flaw> {
    match (samples.pop(), samples.is_empty()) {
        (Some(sample), true) => Ok(sample),
        _ => Err(Flaw::Preference(format!(
            "`{name}` holds several answers that the chat template renders differently once others follow; give one answer"
        ))),
    }
}

/// Keys of a message that say whether it is learned: `weight` (OpenAI), `train` (axolotl), `loss` (ms-swift).
const SWITCHES: [&str; 3] = ["weight", "train", "loss"];

/// Whether a message of the assistant is there as context alone, because one of its [`SWITCHES`] is off.
fn is_context(message: &Value) -> Result<bool, String> {
    let mut context = false;
    for name in SWITCHES {
        let Some(value) = message.get(name).filter(|value| !value.is_null()) else {
            continue;
        };
        let on = boolean(value);
        context |=
            !on.ok_or_else(|| format!("`{name}` is {value}; it can be 0 or false (context), 1 or true (learned)"))?;
    }
    Ok(context)
}

/// A message as templates expect it, from the OpenAI or the ShareGPT shape.
fn standard(message: &Value) -> Result<Value, String> {
    let fields = message
        .as_object()
        .ok_or_else(|| format!("expected an object, found {}", kind(message)))?;
    let role = role(message).ok_or("no `role` (or `from`)")?;
    let content = fields.get("content").or(fields.get("value")).unwrap_or(&Value::Null);
    let has_calls = fields.get("tool_calls").is_some_and(|calls| !calls.is_null());
    if content.is_null() && !has_calls {
        return Err("no `content` (or `value`)".into());
    }
    let content = flat_content(content)?;
    if role == "function_call" {
        return Ok(tool_call(&content));
    }
    let mut standard = fields.clone();
    for name in ["from", "value"].iter().chain(&SWITCHES) {
        standard.shift_remove(*name);
    }
    standard.insert("role".into(), standard_role(role)?.into());
    standard.insert("content".into(), content.into());
    Ok(Value::Object(standard))
}

fn standard_role(role: &str) -> Result<&str, String> {
    match role {
        "human" => Ok("user"),
        "gpt" => Ok("assistant"),
        "observation" | "function_response" => Ok("tool"),
        "system" | "developer" | "user" | "assistant" | "tool" | "function" | "ipython" => Ok(role),
        other => Err(format!(
            "unknown role `{other}`; expected system, user, assistant, tool, human, gpt, function_call or observation"
        )),
    }
}

/// Text, or the joined texts of a list of parts.
fn flat_content(content: &Value) -> Result<String, String> {
    let part = |part: &Value| match (part.as_str(), part["text"].as_str()) {
        (Some(text), _) | (None, Some(text)) => Ok(text.to_owned()),
        _ => Err(format!("a content part of type {} is not text", part["type"])),
    };
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        other => Err(format!("`content` should be text, found {}", kind(other))),
    }
}

/// ShareGPT writes a call as the JSON text of `{"name", "arguments"}`, or of a list of them.
fn tool_call(text: &str) -> Value {
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        _ => return json!({"role": "assistant", "content": text}),
    };
    let calls: Vec<Value> = calls
        .into_iter()
        .map(|call| json!({"type": "function", "function": call}))
        .collect();
    json!({"role": "assistant", "content": "", "tool_calls": calls})
}

/// Tokens of the rendered text, those inside of its spans learned. The text is tokenized as a whole, like transformers does; only where a token would
/// reach across the edge of a span is the text cut there, because that is where generation starts from a prompt tokenized alone.
fn tokenize(rendered: &Rendered, tokenizer: &Tokenizer) -> Result<Sample, Flaw> {
    let edges = rendered.spans.iter().flat_map(|span| [span.start, span.end]);
    let tokens = tokens_cut_at(&rendered.text, edges, tokenizer)?;
    let mut learn = vec![false; tokens.len()];
    for span in &rendered.spans {
        let first = tokens.partition_point(|t| t.start < span.start);
        let last = tokens.partition_point(|t| t.start < span.end);
        let learned = if rendered.exact {
            first..last
        } else {
            up_to_stop(&rendered.text, &tokens, first..last, tokenizer)
        };
        learn[learned].fill(true);
    }
    let mut ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
    let open_end =
        !rendered.exact && learn.last() == Some(&true) && !ids.last().is_some_and(|&id| tokenizer.is_special(id));
    if let Some(eos) = tokenizer.eos_id().filter(|_| open_end) {
        // A template whose answers end in no token of their own would teach a model that never stops.
        ids.push(eos);
        learn.push(true);
    }
    Ok(Sample::new(ids, learn))
}

fn tokens_cut_at(text: &str, edges: impl Iterator<Item = usize>, tokenizer: &Tokenizer) -> Result<Vec<Token>, Flaw> {
    let whole = tokenizer.tokens(text).map_err(Flaw::Tokenizer)?;
    let crossed = |edge: &usize| whole.iter().any(|t| t.start < *edge && *edge < t.end);
    let mut cuts: Vec<usize> = edges.filter(crossed).collect();
    if cuts.is_empty() {
        return Ok(whole);
    }
    cuts.push(text.len());
    let mut tokens = vec![];
    let mut start = 0;
    for end in cuts {
        let piece = tokenizer.tokens(&text[start..end]).map_err(Flaw::Tokenizer)?;
        tokens.extend(piece.into_iter().map(|t| Token {
            id: t.id,
            start: t.start + start,
            end: t.end + start,
        }));
        start = end;
    }
    Ok(tokens)
}

/// Generation ends at the stop token, so white space that a template prints after it is never generated and need not be learned.
fn up_to_stop(text: &str, tokens: &[Token], turn: Range<usize>, tokenizer: &Tokenizer) -> Range<usize> {
    let stop = turn.clone().rev().find(|&i| tokenizer.is_special(tokens[i].id));
    match stop {
        Some(stop) if turn.end > stop + 1 => {
            let rest = &text[tokens[stop].end..tokens[turn.end - 1].end];
            if rest.trim().is_empty() {
                turn.start..stop + 1
            } else {
                turn
            }
        }
        _ => turn,
    }
}
