//! Texts as vectors beside requests: one piece of work between two steps.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use crate::EmbeddingConfig;
use crate::engine::{AdapterInfo, Command, Engine, RequestError};

/// Texts in one forward pass.
pub(super) const BATCH: usize = 16;

/// Texts that are waiting to become vectors.
pub(super) struct Texts {
    pub ids: Vec<Vec<u32>>,
    pub adapter: Option<Arc<AdapterInfo>>,
    pub config: EmbeddingConfig,
    pub answer: mpsc::Sender<Result<Vec<Vec<f32>>, RequestError>>,
}

impl Engine {
    /// The vectors of texts, given as token ids, in their order, as [`embed`](crate::embed()) makes them. Waits for the worker, which takes
    /// no step while it computes them: hand over a few texts at a time.
    ///
    /// # Errors
    /// Texts without tokens, longer than the model's positions, with tokens outside of its vocabulary; an unknown adapter, or one of
    /// virtual tokens; a full queue; an engine that closes.
    pub fn embed(
        &self,
        ids: Vec<Vec<u32>>,
        adapter: Option<&str>,
        config: &EmbeddingConfig,
    ) -> Result<Vec<Vec<f32>>, RequestError> {
        let state = &self.0.state;
        if state.closing.load(Ordering::SeqCst) {
            return Err(RequestError::Closing);
        }
        let invalid = |why: String| Err(RequestError::Invalid(why));
        let adapter = self.adapter(adapter)?;
        if let Some(info) = adapter.as_ref().filter(|info| info.virtual_tokens > 0) {
            return invalid(format!(
                "\"{}\" puts virtual tokens before a text; vectors are made with LoRA adapters or the base",
                info.name
            ));
        }
        for (at, text) in ids.iter().enumerate() {
            if text.is_empty() || text.len() > state.positions {
                let (found, most) = (text.len(), state.positions);
                return invalid(format!("text {at} has {found} tokens; 1 to {most} can be taken"));
            }
            if let Some(id) = text.iter().find(|id| **id as usize >= state.vocab) {
                let last = state.vocab - 1;
                return invalid(format!(
                    "token id {id} is outside of the vocabulary, which ends at {last}"
                ));
            }
        }
        if !state.counters.waiting.enter(state.options.queue as u64) {
            return Err(RequestError::Full(state.options.queue));
        }
        let (answer, answered) = mpsc::channel();
        let texts = Texts {
            ids,
            adapter,
            config: config.clone(),
            answer,
        };
        let sent = self.0.commands.send(Command::Embed(Box::new(texts)));
        let made = sent.ok().and_then(|()| answered.recv().ok());
        state.counters.waiting.leave();
        made.unwrap_or(Err(RequestError::Closing))
    }

    /// Most tokens of a text.
    pub fn positions(&self) -> usize {
        self.0.state.positions
    }

    /// Numbers of a vector.
    pub fn embedding_width(&self) -> usize {
        self.0.state.width
    }
}
