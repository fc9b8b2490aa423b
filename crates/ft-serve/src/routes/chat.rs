//! `/v1/chat/completions`: the next message of a conversation, through the chat template of the model that is named.

use ft_data::{Conversation, Tokenizer};
use ft_infer::TokenScore;
use serde_json::{Map, Value, json};

use crate::answering::{Answer, Gone, Update, follow, submit, usage};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::http::{Reply, Request};
use crate::persona::Persona;
use crate::response_format;
use crate::routes::delivery::{finish_stream, send_whole};
use crate::sampling::{Sampling, TOP};
use crate::service::{Service, unix_time};
use crate::tool_calls::{Call, Reader, Tools};

/// A request that was understood.
struct Asked {
    sampling: Sampling,
    tools: Tools,
    max_tokens: Option<usize>,
    scores: Option<usize>,
}

/// What all pieces of an answer begin with.
struct Envelope {
    id: String,
    created: u64,
    model: String,
}

impl Envelope {
    fn object(&self, kind: &str, choices: Value) -> Value {
        let version = concat!("ft-", env!("CARGO_PKG_VERSION"));
        json!({
            "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": version, "choices": choices,
        })
    }
}

pub fn run(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    service.must_write()?;
    let mut fields = Fields::parse(&request.body)?;
    let persona = service.persona(&Fields::needed("model", fields.text("model")?)?)?;
    let asked = Asked::take(&mut fields)?;
    let structure = response_format::take(&mut fields, &persona, asked.tools.schema())?;
    let prompt = prompt(&mut fields, &persona, &asked.tools)?;
    fields.end()?;
    let limit = service.engine().limit_with(persona.adapter.as_deref());
    let room = limit.saturating_sub(prompt.len());
    let max_tokens = asked.max_tokens.unwrap_or(room.max(1));
    let choice = |choice| {
        let request = asked.sampling.request(&persona, prompt.clone(), max_tokens)?;
        Ok(ft_infer::Request {
            choice,
            scores: asked.scores,
            structure: structure.clone(),
            ..request
        })
    };
    let requests = (0..asked.sampling.n)
        .map(choice)
        .collect::<Result<Vec<_>, ApiError>>()?;
    let mut answers = submit(service, &persona.tokenizer, requests, &asked.sampling.stops)?;
    let envelope = Envelope {
        id: service.number("chatcmpl"),
        created: unix_time(),
        model: persona.name.clone(),
    };
    match asked.sampling.stream {
        true => stream(&mut answers, &asked, &envelope, &persona.tokenizer, reply),
        false => whole(&mut answers, &asked, &envelope, &persona.tokenizer, reply),
    }
}

impl Asked {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let sampling = Sampling::take(fields)?;
        let (old, new) = (fields.count("max_tokens")?, fields.count("max_completion_tokens")?);
        if old.or(new) == Some(0) {
            return Err(ApiError::field("max_tokens", "at least 1 is expected"));
        }
        only(
            fields,
            "modalities",
            |value| *value == json!(["text"]),
            "only [\"text\"] is supported",
        )?;
        let wanted = fields.flag("logprobs")?.unwrap_or(false);
        let scores = match fields.count("top_logprobs")? {
            Some(_) if !wanted => return Err(ApiError::field("top_logprobs", "needs logprobs: true")),
            Some(top) if top > TOP => return Err(ApiError::field("top_logprobs", format!("at most {TOP}"))),
            top => wanted.then_some(top.unwrap_or(0)),
        };
        Ok(Self {
            sampling,
            tools: Tools::take(fields)?,
            max_tokens: new.or(old),
            scores,
        })
    }
}

/// Takes a field whose only value here is what `fits`.
fn only(fields: &mut Fields, name: &str, fits: impl Fn(&Value) -> bool, why: &str) -> Result<(), ApiError> {
    match fields.take(name) {
        Some(value) if !fits(&value) => Err(ApiError::unsupported(name, why)),
        _ => Ok(()),
    }
}

/// The conversation as tokens, up to where the answer begins.
pub fn prompt(fields: &mut Fields, persona: &Persona, tools: &Tools) -> Result<Vec<u32>, ApiError> {
    let messages = match Fields::needed("messages", fields.take("messages"))? {
        Value::Array(messages) if !messages.is_empty() => messages,
        _ => return Err(ApiError::field("messages", "a list of messages is expected")),
    };
    let messages = messages.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let conversation = Conversation {
        messages,
        tools: tools.for_template(),
        documents: None,
    };
    let tokenizer = match fields.take("chat_template_kwargs") {
        None => persona.tokenizer.clone(),
        Some(Value::Object(kwargs)) => persona.tokenizer.clone().with_chat_template_kwargs(&kwargs),
        Some(_) => return Err(ApiError::field("chat_template_kwargs", "an object is expected")),
    };
    if tokenizer.chat_template().is_none() {
        let why = format!("`{}` has no chat template; use /v1/completions", persona.name);
        return Err(ApiError::field("messages", why));
    }
    let prompt = tokenizer.encode_chat(&conversation);
    prompt.map_err(|e| ApiError::field("messages", e))
}

/// A message as templates expect it: its text in one piece, the arguments of tool calls as objects.
fn message(message: Value) -> Result<Value, ApiError> {
    let Value::Object(mut message) = message else {
        return Err(ApiError::field("messages", "every message must be an object"));
    };
    if !message.get("role").is_some_and(Value::is_string) {
        return Err(ApiError::field("messages", "every message needs a \"role\""));
    }
    if let Some(Value::Array(parts)) = message.get("content") {
        let text = parts.iter().map(part).collect::<Result<String, _>>()?;
        message.insert("content".into(), text.into());
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.iter_mut().for_each(parse_arguments);
    }
    Ok(Value::Object(message))
}

fn part(part: &Value) -> Result<&str, ApiError> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        (Some(kind), _) => Err(ApiError::unsupported(
            "messages",
            format!("content of type \"{kind}\" is not supported"),
        )),
        (None, _) => Err(ApiError::field("messages", "a part of a message needs a \"type\"")),
    }
}

/// OpenAI writes arguments as a text that holds JSON; templates write the JSON themselves.
fn parse_arguments(call: &mut Value) {
    let parsed = call["function"]["arguments"]
        .as_str()
        .and_then(|text| serde_json::from_str::<Map<_, _>>(text).ok());
    if let (Some(parsed), Some(arguments)) = (parsed, call.pointer_mut("/function/arguments")) {
        *arguments = Value::Object(parsed);
    }
}

/// Log probabilities in the form of chat answers.
fn logprobs(tokenizer: &Tokenizer, scores: &[TokenScore]) -> Value {
    let token = |id: u32, logprob: f32| {
        let bytes = tokenizer.bytes_of(id);
        json!({ "token": String::from_utf8_lossy(&bytes), "logprob": logprob, "bytes": bytes })
    };
    let entry = |score: &TokenScore| {
        let mut entry = token(score.id, score.logprob);
        entry["top_logprobs"] = score.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        entry
    };
    json!({ "content": scores.iter().map(entry).collect::<Vec<_>>(), "refusal": null })
}

/// Calls end with a reason of their own, unless they were cut.
fn finish(reason: Option<&'static str>, calls: &[Call]) -> Option<&'static str> {
    match reason {
        Some("stop") if !calls.is_empty() => Some("tool_calls"),
        reason => reason,
    }
}

/// The calls of a choice, each with an id of its own.
fn objects(calls: &[Call], envelope: &Envelope, choice: usize) -> Value {
    let id = |number: usize| format!("call-{}-{choice}-{number}", envelope.id);
    calls
        .iter()
        .enumerate()
        .map(|(number, call)| call.object(id(number)))
        .collect()
}

fn whole(
    answers: &mut [Answer],
    asked: &Asked,
    envelope: &Envelope,
    tokenizer: &Tokenizer,
    reply: &mut Reply,
) -> Result<(), ApiError> {
    let mut made: Vec<(String, Vec<TokenScore>)> = answers.iter().map(|_| Default::default()).collect();
    let followed = follow(answers, reply.client(), |index, update| {
        made[index].0.push_str(&update.text);
        made[index].1.extend(update.scores);
        Ok(())
    });
    let choice = |(index, (text, scores)): (usize, &(String, Vec<TokenScore>))| {
        let mut reader = asked.tools.reader();
        let said = reader.push(text);
        let (rest, calls) = reader.finish();
        let content = said + &rest;
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !calls.is_empty() {
            message["tool_calls"] = objects(&calls, envelope, index);
            if content.is_empty() {
                message["content"] = Value::Null;
            }
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": asked.scores.map(|_| logprobs(tokenizer, scores)),
            "finish_reason": finish(answers[index].finish, &calls),
        })
    };
    let object = || {
        let choices = made.iter().enumerate().map(choice).collect();
        let mut object = envelope.object("chat.completion", choices);
        object["usage"] = usage(answers, asked.sampling.n);
        object
    };
    send_whole(followed, object, reply)
}

fn stream(
    answers: &mut [Answer],
    asked: &Asked,
    envelope: &Envelope,
    tokenizer: &Tokenizer,
    reply: &mut Reply,
) -> Result<(), ApiError> {
    const KIND: &str = "chat.completion.chunk";
    let usage_too = asked.sampling.include_usage;
    let chunk = |index: usize, delta: Value, scores: &[TokenScore], finish: Option<&str>| {
        let logprobs = (asked.scores.is_some() && !scores.is_empty()).then(|| logprobs(tokenizer, scores));
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        let mut object = envelope.object(KIND, json!([choice]));
        if usage_too {
            object["usage"] = Value::Null;
        }
        object.to_string()
    };
    let client = reply.client();
    let opening = json!({ "role": "assistant", "content": "", "refusal": null });
    let begun = reply.begin_events();
    let indices = 0..answers.len();
    let begun = begun.and_then(|()| {
        indices
            .into_iter()
            .try_for_each(|index| reply.event(&chunk(index, opening.clone(), &[], None)))
    });
    if begun.is_err() {
        return Ok(());
    }
    let mut readers: Vec<Reader> = answers.iter().map(|_| asked.tools.reader()).collect();
    let followed = follow(answers, client, |index, update| {
        let Update {
            text,
            scores,
            finish: reason,
            ..
        } = update;
        let mut say = |delta: Value, scores: &[TokenScore], reason: Option<&str>| {
            reply.event(&chunk(index, delta, scores, reason)).map_err(|_| Gone)
        };
        let mut text = readers[index].push(&text);
        let mut calls = Vec::new();
        if reason.is_some() {
            let (rest, made) = std::mem::take(&mut readers[index]).finish();
            text.push_str(&rest);
            calls = made;
        }
        if !text.is_empty() || !scores.is_empty() {
            say(json!({ "content": text }), &scores, None)?;
        }
        if let Value::Array(objects) = objects(&calls, envelope, index) {
            for (number, mut object) in objects.into_iter().enumerate() {
                object["index"] = number.into();
                say(json!({ "tool_calls": [object] }), &[], None)?;
            }
        }
        match finish(reason, &calls) {
            None => Ok(()),
            reason => say(json!({}), &[], reason),
        }
    });
    let last = usage_too.then(|| {
        let mut object = envelope.object(KIND, json!([]));
        object["usage"] = usage(answers, asked.sampling.n);
        object.to_string()
    });
    finish_stream(followed, last, reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_in_parts_is_one_text() {
        let parts = json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        assert_eq!(message(parts).unwrap()["content"], "ab");
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]});
        let error = message(image).unwrap_err().body();
        assert!(error["error"]["message"].as_str().unwrap().contains("image_url"));
        assert!(message(json!({"content": "x"})).is_err());
        assert!(message(json!("x")).is_err());
    }

    #[test]
    fn arguments_of_tool_calls_are_objects() {
        let call = json!({"role": "assistant", "content": null, "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"x\": 1}"}},
            {"function": {"name": "g", "arguments": "no json"}},
        ]});
        let calls = message(call).unwrap();
        assert_eq!(calls["tool_calls"][0]["function"]["arguments"]["x"], 1);
        assert_eq!(calls["tool_calls"][1]["function"]["arguments"], "no json");
    }
}
