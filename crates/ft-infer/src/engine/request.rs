//! What is asked of the engine, and why it may be refused.

use std::time::Instant;

use crate::{Error, GenerationConfig, Structure};

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// The adapter by name; `None` is the base.
    pub adapter: Option<String>,
    /// How tokens are chosen, and when the answer ends. `max_new_tokens` may be 0 here: then the prompt is read, and scored if
    /// that was asked for. Beams and `batch_size` are not the engine's.
    pub config: GenerationConfig,
    /// Which of several answers to the same prompt this is; with the seed it names the random stream.
    pub choice: usize,
    /// Subtracted once from the logit of every token that was generated before (OpenAI's).
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token for every time it was generated before (OpenAI's).
    pub frequency_penalty: f32,
    /// Added to logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the answer must be; it ends with the structure, whatever `config.ignore_eos` says.
    pub structure: Option<Structure>,
    /// Log probabilities of the chosen tokens are wanted, with this many of the likeliest.
    pub scores: Option<usize>,
    /// Log probabilities of the prompt's tokens are wanted, with this many of the likeliest.
    pub prompt_scores: Option<usize>,
    /// When it is given up.
    pub deadline: Option<Instant>,
}

impl Request {
    /// Continues `prompt` with the base as `config` says.
    pub fn new(prompt: Vec<u32>, config: GenerationConfig) -> Self {
        Self {
            prompt,
            adapter: None,
            config,
            choice: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            structure: None,
            scores: None,
            prompt_scores: None,
            deadline: None,
        }
    }

    /// The same with an adapter.
    pub fn with_adapter(self, name: impl Into<String>) -> Self {
        Self {
            adapter: Some(name.into()),
            ..self
        }
    }
}

/// Why a request was not taken, or ended early.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// As many requests wait as may.
    #[error("{0} requests are waiting, which is all the queue holds; try again later")]
    Full(usize),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
    /// No adapter has this name.
    #[error("there is no adapter \"{0}\"")]
    UnknownAdapter(String),
    /// The adapter left memory, and cannot be read again.
    #[error("the adapter \"{name}\" cannot be read again: {why}")]
    Adapter {
        /// What requests call it.
        name: String,
        /// Why.
        why: String,
    },
    /// The prompt, or a setting, cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Prompt and answer do not fit.
    #[error(
        "the prompt has {prompt} tokens and {new} more are asked for, together {}; {limit} fit ({})",
        prompt + new, if *by_cache { "the cache's size" } else { "the model's positions" }
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Most tokens of the answer.
        new: usize,
        /// Most tokens of both.
        limit: usize,
        /// The cache is the limit, not the model.
        by_cache: bool,
    },
    /// Its time is over.
    #[error("the time for the request is over after {generated} generated tokens")]
    TimedOut {
        /// Tokens generated before.
        generated: usize,
    },
    /// The structure that was asked for cannot be followed any further.
    #[error("the answer's structure cannot be followed after {generated} generated tokens: {why}")]
    Structure {
        /// Tokens generated before.
        generated: usize,
        /// Why.
        why: String,
    },
    /// The model's logits are not finite.
    #[error(
        "the model's logits are not finite after {generated} generated tokens; the weights or the adapter hold NaN or overflow"
    )]
    NotFinite {
        /// Tokens generated before.
        generated: usize,
    },
    /// A bug of ours; the engine goes on with other requests.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Checks what needs no engine.
pub(super) fn check(request: &Request, vocab: usize, limit: usize, positions: usize) -> Result<(), RequestError> {
    let invalid = |why: String| Err(RequestError::Invalid(why));
    let GenerationConfig {
        max_new_tokens,
        num_beams,
        ..
    } = request.config;
    let config = GenerationConfig {
        max_new_tokens: max_new_tokens.max(1),
        ..request.config.clone()
    };
    if let Err(Error::Settings(problems)) = config.validate() {
        return invalid(problems.join("; "));
    }
    if num_beams != 1 {
        return invalid("num_beams: the engine has no beam search; ft generate has".into());
    }
    if request.prompt.is_empty() {
        return invalid("the prompt is empty: give it at least one token".into());
    }
    let mut ids = request.prompt.iter().chain(request.logit_bias.iter().map(|(id, _)| id));
    if let Some(id) = ids.find(|id| **id as usize >= vocab) {
        return invalid(format!(
            "token id {id} is outside of the vocabulary, which ends at {}",
            vocab - 1
        ));
    }
    let penalties = [request.presence_penalty, request.frequency_penalty];
    let finite = |x: &f32| x.is_finite();
    if !penalties.iter().all(finite) || !request.logit_bias.iter().all(|(_, bias)| finite(bias)) {
        return invalid("penalties and biases must be finite numbers".into());
    }
    let prompt = request.prompt.len();
    match prompt.saturating_add(max_new_tokens) > limit {
        true => Err(RequestError::TooLong {
            prompt,
            new: max_new_tokens,
            limit,
            by_cache: limit < positions,
        }),
        false => Ok(()),
    }
}
