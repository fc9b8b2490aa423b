//! `/v1/completions`: texts or lists of token ids go on; with `echo` and `logprobs` a text is scored.

use ft_data::Tokenizer;
use ft_infer::TokenScore;
use serde_json::{Map, Value, json};

use crate::answering::{Answer, Gone, follow, submit, usage};
use crate::error::ApiError;
use crate::fields::{Fields, ids};
use crate::http::{Reply, Request};
use crate::routes::delivery::{finish_stream, send_whole};
use crate::sampling::{Sampling, TOP};
use crate::service::{Service, unix_time};

/// OpenAI's default.
const MAX_TOKENS: usize = 16;
/// Most prompts of a request.
const PROMPTS: usize = 2048;

struct Asked {
    sampling: Sampling,
    max_tokens: usize,
    echo: bool,
    logprobs: Option<usize>,
}

pub fn run(service: &Service, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
    service.must_write()?;
    let mut fields = Fields::parse(&request.body)?;
    let persona = service.persona(&Fields::needed("model", fields.text("model")?)?)?;
    let prompts = prompts(&mut fields, &persona.tokenizer)?;
    let asked = Asked::take(&mut fields)?;
    fields.end()?;
    let mut requests = Vec::new();
    for prompt in &prompts {
        for choice in 0..asked.sampling.n {
            let request = asked.sampling.request(&persona, prompt.clone(), asked.max_tokens)?;
            requests.push(ft_infer::Request {
                choice,
                scores: asked.logprobs,
                prompt_scores: asked.logprobs.filter(|_| asked.echo),
                ..request
            });
        }
    }
    let mut answers = submit(service, &persona.tokenizer, requests, &asked.sampling.stops)?;
    let mut made: Vec<Choice> = (0..answers.len())
        .map(|index| Choice::new(index, &prompts[index / asked.sampling.n], &asked, &persona.tokenizer))
        .collect();
    let (id, created) = (service.number("cmpl"), unix_time());
    let object = |choices: Value| {
        json!({
            "id": id, "object": "text_completion", "created": created, "model": persona.name, "choices": choices,
        })
    };
    match asked.sampling.stream {
        true => stream(&mut answers, &mut made, &asked, &object, reply),
        false => {
            let followed = follow(&mut answers, reply.client(), |index, update| {
                made[index].take(update.text, update.prompt, update.scores);
                Ok(())
            });
            let whole = || {
                let choices = made
                    .iter_mut()
                    .zip(&answers)
                    .map(|(choice, answer)| choice.piece(answer.finish));
                let mut object = object(choices.collect());
                object["usage"] = usage(&answers, asked.sampling.n);
                object
            };
            send_whole(followed, whole, reply)
        }
    }
}

impl Asked {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let sampling = Sampling::take(fields)?;
        let asked = Self {
            max_tokens: fields.count("max_tokens")?.unwrap_or(MAX_TOKENS),
            echo: fields.flag("echo")?.unwrap_or(false),
            logprobs: fields.count("logprobs")?,
            sampling,
        };
        if asked.logprobs.is_some_and(|top| top > TOP) {
            return Err(ApiError::field("logprobs", format!("at most {TOP}")));
        }
        if fields.count("best_of")?.is_some_and(|best| best != asked.sampling.n) {
            return Err(ApiError::unsupported("best_of", "only the value of n is supported"));
        }
        if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "filling in is not supported"));
        }
        Ok(asked)
    }
}

/// The prompts as tokens: a text, a list of texts, a list of ids, or a list of those.
fn prompts(fields: &mut Fields, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
    const NAME: &str = "prompt";
    let special = fields.flag("add_special_tokens")?.unwrap_or(true);
    let encode = |text: &str| tokenizer.encode(text, special).map_err(|e| ApiError::field(NAME, e));
    let prompts = match Fields::needed(NAME, fields.take(NAME))? {
        Value::String(text) => vec![encode(&text)?],
        Value::Array(values) if values.len() > PROMPTS && !values[0].is_number() => {
            return Err(ApiError::field(NAME, format!("at most {PROMPTS} prompts in a request")));
        }
        Value::Array(values) => match values.first() {
            Some(Value::Number(_)) => vec![ids(NAME, &values)?],
            _ => {
                let one = |value: &Value| match value {
                    Value::String(text) => encode(text),
                    Value::Array(values) => ids(NAME, values),
                    _ => Err(ApiError::field(NAME, "texts or lists of token ids are expected")),
                };
                values.iter().map(one).collect::<Result<_, _>>()?
            }
        },
        _ => {
            return Err(ApiError::field(
                NAME,
                "a text, a list of texts or lists of token ids are expected",
            ));
        }
    };
    match prompts.iter().position(Vec::is_empty) {
        _ if prompts.is_empty() => Err(ApiError::field(NAME, "at least one prompt is expected")),
        Some(at) => Err(ApiError::field(
            NAME,
            format!("prompt {at} is empty: give it at least one token"),
        )),
        None => Ok(prompts),
    }
}

/// One choice while it is made, and what of it was not told yet.
struct Choice<'a> {
    index: usize,
    tokenizer: &'a Tokenizer,
    text: String,
    logprobs: Option<Logprobs>,
}

/// Log probabilities in the form of this path.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
    /// Characters of all tokens so far.
    offset: usize,
}

impl<'a> Choice<'a> {
    fn new(index: usize, prompt: &[u32], asked: &Asked, tokenizer: &'a Tokenizer) -> Self {
        let mut choice = Self {
            index,
            tokenizer,
            text: String::new(),
            logprobs: asked.logprobs.map(|_| Logprobs::default()),
        };
        if asked.echo {
            choice.text = tokenizer.decode(prompt, true);
            if let (Some(logprobs), Some(first)) = (&mut choice.logprobs, prompt.first()) {
                logprobs.push(tokenizer, *first, None);
            }
        }
        choice
    }

    fn take(&mut self, text: String, prompt: Option<Vec<Option<TokenScore>>>, scores: Vec<TokenScore>) {
        self.text.push_str(&text);
        let all = prompt.into_iter().flatten().flatten().chain(scores);
        if let Some(logprobs) = &mut self.logprobs {
            all.for_each(|score| logprobs.push(self.tokenizer, score.id, Some(&score)));
        }
    }

    /// What was not told yet.
    fn piece(&mut self, finish: Option<&str>) -> Value {
        let logprobs = self.logprobs.as_mut().map(Logprobs::piece);
        json!({
            "index": self.index, "text": std::mem::take(&mut self.text), "logprobs": logprobs, "finish_reason": finish,
        })
    }
}

impl Logprobs {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, score: Option<&TokenScore>) {
        let text = |id: u32| String::from_utf8_lossy(&tokenizer.bytes_of(id)).into_owned();
        let own = text(id);
        self.text_offset.push(self.offset.into());
        self.offset += own.chars().count();
        self.token_logprobs
            .push(score.map_or(Value::Null, |score| score.logprob.into()));
        self.top_logprobs.push(score.map_or(Value::Null, |score| {
            // Two tokens may read the same: the likelier one stays.
            let mut top = Map::new();
            for (id, logprob) in score.top.iter().chain([&(score.id, score.logprob)]) {
                top.entry(text(*id)).or_insert((*logprob).into());
            }
            Value::Object(top)
        }));
        self.tokens.push(own.into());
    }

    fn piece(&mut self) -> Value {
        let take = std::mem::take::<Vec<Value>>;
        json!({
            "tokens": take(&mut self.tokens), "token_logprobs": take(&mut self.token_logprobs),
            "top_logprobs": take(&mut self.top_logprobs), "text_offset": take(&mut self.text_offset),
        })
    }
}

fn stream(
    answers: &mut [Answer],
    made: &mut [Choice],
    asked: &Asked,
    object: &dyn Fn(Value) -> Value,
    reply: &mut Reply,
) -> Result<(), ApiError> {
    let client = reply.client();
    if reply.begin_events().is_err() {
        return Ok(());
    }
    let followed = follow(answers, client, |index, update| {
        let choice = &mut made[index];
        choice.take(update.text, update.prompt, update.scores);
        let untold = choice
            .logprobs
            .as_ref()
            .is_some_and(|logprobs| !logprobs.tokens.is_empty());
        if choice.text.is_empty() && !untold && update.finish.is_none() {
            return Ok(());
        }
        let mut chunk = object(json!([choice.piece(update.finish)]));
        if asked.sampling.include_usage {
            chunk["usage"] = Value::Null;
        }
        reply.event(&chunk.to_string()).map_err(|_| Gone)
    });
    let last = asked.sampling.include_usage.then(|| {
        let mut object = object(json!([]));
        object["usage"] = usage(answers, asked.sampling.n);
        object.to_string()
    });
    finish_stream(followed, last, reply)
}
