//! What `/v1/chat/completions` and `/v1/completions` have in common in their requests.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use ft_infer::{GenerationOptions, Request};
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::persona::Persona;

/// Most answers to a prompt, and most stop texts.
const CHOICES: usize = 128;
const STOPS: usize = 16;
/// Most of the likeliest tokens of which log probabilities are told.
pub const TOP: usize = 20;

/// OpenAI's fields that change nothing about the answer: accepted from clients that always send them.
const WITHOUT_EFFECT: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
];

/// How an answer is to be made.
#[derive(Debug)]
pub struct Sampling {
    options: GenerationOptions,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    /// Answers to each prompt.
    pub n: usize,
    pub stops: Vec<String>,
    pub stream: bool,
    /// A stream ends with what was used.
    pub include_usage: bool,
}

impl Sampling {
    pub fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        for name in WITHOUT_EFFECT {
            fields.take(name);
        }
        let n = fields.count("n")?.unwrap_or(1);
        if n == 0 || n > CHOICES {
            return Err(ApiError::field("n", format!("1 to {CHOICES} answers can be asked for")));
        }
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = include_usage(fields, stream)?;
        let (presence, frequency) = (
            penalty(fields, "presence_penalty")?,
            penalty(fields, "frequency_penalty")?,
        );
        let top_k = match fields.whole("top_k")? {
            Some(-1) => Some(0),
            Some(k) => {
                Some(usize::try_from(k).map_err(|_| ApiError::field("top_k", "0 or -1 (all) or more is expected"))?)
            }
            None => None,
        };
        let options = GenerationOptions {
            temperature: fields.number("temperature")?,
            top_p: fields.number("top_p")?,
            top_k,
            min_p: fields.number("min_p")?,
            repetition_penalty: fields.number("repetition_penalty")?,
            seed: Some(fields.whole("seed")?.map_or_else(random, |seed| seed as u64)),
            ignore_eos: fields.flag("ignore_eos")?,
            num_beams: Some(1),
            ..GenerationOptions::default()
        };
        Ok(Self {
            options,
            presence_penalty: presence,
            frequency_penalty: frequency,
            logit_bias: logit_bias(fields)?,
            n,
            stops: stops(fields)?,
            stream,
            include_usage,
        })
    }

    /// The engine's request for a prompt.
    pub fn request(&self, persona: &Persona, prompt: Vec<u32>, max_tokens: usize) -> Result<Request, ApiError> {
        let config = persona
            .settings
            .clone()
            .with(&self.options)
            .map_err(|e| ApiError::new(400, e))?;
        let config = ft_infer::GenerationConfig {
            max_new_tokens: max_tokens,
            ..config
        };
        Ok(Request {
            adapter: persona.adapter.clone(),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            ..Request::new(prompt, config)
        })
    }
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    const NAME: &str = "stream_options";
    match fields.take(NAME) {
        None => Ok(false),
        Some(_) if !stream => Err(ApiError::field(NAME, "is only for streams")),
        Some(options) => {
            let mut options = Fields::of(NAME, options)?;
            let include = options.flag("include_usage")?.unwrap_or(false);
            // Padding against an observer of lengths; there is none here.
            options.take("include_obfuscation");
            options.end().map(|()| include)
        }
    }
}

fn penalty(fields: &mut Fields, name: &str) -> Result<f32, ApiError> {
    let value = fields.number(name)?.unwrap_or(0.0);
    match (-2.0..=2.0).contains(&value) {
        true => Ok(value as f32),
        false => Err(ApiError::field(name, "must lie in [-2, 2]")),
    }
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let wrong = || ApiError::field(NAME, "an object of token ids and biases in [-100, 100] is expected");
    match fields.take(NAME) {
        None => Ok(Vec::new()),
        Some(Value::Object(biases)) => {
            let bias = |(id, bias): (&String, &Value)| {
                let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
                Some((id.parse().ok()?, bias as f32))
            };
            biases.iter().map(|entry| bias(entry).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "stop";
    let wrong = || ApiError::field(NAME, format!("a text or a list of up to {STOPS} texts is expected"));
    let stops: Option<Vec<String>> = match fields.take(NAME) {
        None => Some(Vec::new()),
        Some(Value::String(stop)) => Some(vec![stop]),
        Some(Value::Array(stops)) if stops.len() <= STOPS => {
            stops.iter().map(|stop| stop.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    };
    stops.ok_or_else(wrong)
}

/// A seed that no other request has.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(json: &str) -> Result<Sampling, ApiError> {
        let mut fields = Fields::parse(json.as_bytes()).unwrap();
        Sampling::take(&mut fields).and_then(|sampling| fields.end().map(|()| sampling))
    }

    #[test]
    fn what_is_typed_is_what_is_done() {
        let sampling =
            take(r#"{"n": 2, "stop": ["a", "b"], "seed": -1, "top_k": -1, "logit_bias": {"7": -100}, "user": "me"}"#)
                .unwrap();
        assert_eq!((sampling.n, sampling.stops.len()), (2, 2));
        assert_eq!(
            (sampling.options.seed, sampling.options.top_k),
            (Some(u64::MAX), Some(0))
        );
        assert_eq!(sampling.logit_bias, [(7, -100.0)]);
        assert_ne!(take("{}").unwrap().options.seed, take("{}").unwrap().options.seed);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (json, param) in [
            (r#"{"n": 0}"#, "n"),
            (r#"{"presence_penalty": 3}"#, "presence_penalty"),
            (r#"{"logit_bias": {"x": 1}}"#, "logit_bias"),
            (r#"{"logit_bias": {"1": 101}}"#, "logit_bias"),
            (r#"{"stop": 5}"#, "stop"),
            (r#"{"stream_options": {}}"#, "stream_options"),
            (r#"{"stream": true, "stream_options": {"a": 1}}"#, "a"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"audio": {}}"#, "audio"),
        ] {
            assert_eq!(take(json).unwrap_err().body()["error"]["param"], param, "{json}");
        }
    }
}
