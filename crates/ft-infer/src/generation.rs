//! What comes out: tokens while they are made, and the finished row.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token was generated.
    Stop,
    /// `max_new_tokens` or the model's positions were used up.
    Length,
    /// The callback asked to break off.
    Cancelled,
}

/// One generated token, handed to the callback as soon as it is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Index of its prompt.
    pub row: usize,
    /// The token.
    pub id: u32,
    /// Set on the last token of a row. With [`FinishReason::Stop`], `id` is the stop token and no part of the text.
    pub finish: Option<FinishReason>,
}

/// The callback of a caller who only wants the result.
pub fn no_stream(_: Token) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The continuation of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Generated tokens, the stop token included (as transformers returns them).
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Seconds from when the prompt was taken up to the last token, reading the prompt included.
    pub seconds: f64,
}

impl Generation {
    /// A prompt that was not begun.
    pub(crate) fn cancelled() -> Self {
        Self {
            tokens: Vec::new(),
            finish_reason: FinishReason::Cancelled,
            seconds: 0.0,
        }
    }

    /// The tokens of the answer itself: without the stop token that ended it.
    pub fn content(&self) -> &[u32] {
        match self.finish_reason {
            FinishReason::Stop => &self.tokens[..self.tokens.len() - 1],
            FinishReason::Length | FinishReason::Cancelled => &self.tokens,
        }
    }

    /// Generated tokens per second of this row; others run at the same time.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens.len() as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}
