//! The engine's events as text, for one or several answers at once.

use std::time::{Duration, Instant};

use ft_data::Tokenizer;
use ft_infer::{AnswerText, Event, Events, FinishReason, Request, TokenScore};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::http::Client;
use crate::service::Service;

/// How often a client is looked after while nothing happens.
const LOOK: Duration = Duration::from_millis(100);
/// How long one of several answers is waited for before the others are looked at.
const TURN: Duration = Duration::from_millis(2);

/// One answer while it is made.
pub struct Answer<'a> {
    events: Option<Events>,
    text: AnswerText<'a>,
    /// Tokens of its prompt, and of it so far.
    pub prompt_tokens: usize,
    pub tokens: usize,
    pub finish: Option<&'static str>,
}

/// What came of an answer since the last time.
#[derive(Debug, Default)]
pub struct Update {
    /// Scores of the prompt.
    pub prompt: Option<Vec<Option<TokenScore>>>,
    pub text: String,
    /// Scores of the tokens, the stop token among them.
    pub scores: Vec<TokenScore>,
    /// Set on the last update.
    pub finish: Option<&'static str>,
}

/// Nobody is there any more to read the answer.
#[derive(Debug)]
pub struct Gone;

/// Why there is no answer.
pub enum Broken {
    Gone,
    Failed(ApiError),
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        Broken::Failed(error)
    }
}

/// Hands all requests over, or none.
pub fn submit<'a>(
    service: &Service,
    tokenizer: &'a Tokenizer,
    requests: Vec<Request>,
    stops: &[String],
) -> Result<Vec<Answer<'a>>, ApiError> {
    let deadline = Some(Instant::now() + service.settings().request_time);
    let answer = |request: Request| {
        let prompt_tokens = request.prompt.len();
        let events = service.engine().submit(Request { deadline, ..request })?;
        Ok(Answer {
            events: Some(events),
            text: AnswerText::new(tokenizer, stops.to_vec()),
            prompt_tokens,
            tokens: 0,
            finish: None,
        })
    };
    requests.into_iter().map(answer).collect()
}

impl Answer<'_> {
    /// What happens within `limit`, if anything does.
    fn next(&mut self, limit: Duration) -> Result<Option<Update>, ApiError> {
        let Some(events) = &mut self.events else {
            return Ok(None);
        };
        let mut update = Update::default();
        match events.wait_for(limit) {
            Err(_) => return Ok(None),
            Ok(None) => return Err(ApiError::new(500, "internal error: an answer without an end")),
            Ok(Some(Event::Prompt(scores))) => update.prompt = Some(scores),
            Ok(Some(Event::Token { id, score, finish })) => {
                self.tokens += 1;
                update.scores.extend(score);
                if finish != Some(FinishReason::Stop) {
                    let piece = self.text.push(id);
                    update.text = piece.text;
                    if piece.stopped {
                        self.end("stop", &mut update);
                    }
                }
            }
            Ok(Some(Event::End(Ok(reason)))) => {
                let piece = self.text.finish();
                update.text = piece.text;
                let reason = if piece.stopped { FinishReason::Stop } else { reason };
                self.end(name(reason), &mut update);
            }
            Ok(Some(Event::End(Err(error)))) => return Err(error.into()),
        }
        Ok(Some(update))
    }

    fn end(&mut self, reason: &'static str, update: &mut Update) {
        self.events = None;
        (self.finish, update.finish) = (Some(reason), Some(reason));
    }
}

fn name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length | FinishReason::Cancelled => "length",
    }
}

/// Follows all answers to their ends. `each` is told of every update with the answer's index. When it says [`Gone`], or the client
/// has left, the answers are given up.
pub fn follow(
    answers: &mut [Answer<'_>],
    client: Client<'_>,
    mut each: impl FnMut(usize, Update) -> Result<(), Gone>,
) -> Result<(), Broken> {
    let mut looked = Instant::now();
    loop {
        let open = |answer: &Answer| answer.finish.is_none();
        let (Some(first), count) = (
            answers.iter().position(open),
            answers.iter().filter(|a| open(a)).count(),
        ) else {
            return Ok(());
        };
        for (index, answer) in answers.iter_mut().enumerate() {
            let limit = match (index == first, count) {
                (true, 1) => LOOK,
                (true, _) => TURN,
                (false, _) => Duration::ZERO,
            };
            if let Some(update) = answer.next(limit)? {
                each(index, update).map_err(|Gone| Broken::Gone)?;
            }
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if !client.listens() {
                return Err(Broken::Gone);
            }
        }
    }
}

/// OpenAI's count of what answers to some prompts took; a prompt with several answers counts once.
pub fn usage(answers: &[Answer], n: usize) -> Value {
    let prompt: usize = answers.iter().step_by(n).map(|answer| answer.prompt_tokens).sum();
    let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
    json!({ "prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens })
}
