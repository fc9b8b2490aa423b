//! Everything that can go wrong before or during generation.

use std::path::PathBuf;

use crate::engine::RequestError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a generation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `generation_config.json` exists but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `generation_config.json` is not JSON.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and cause.
        source: serde_json::Error,
    },
    /// Keys of `generation_config.json` hold values of the wrong kind; every one is listed.
    #[error("{}: {}", path.display(), problems.join("; "))]
    File {
        /// The file.
        path: PathBuf,
        /// One line per key.
        problems: Vec<String>,
    },
    /// Settings out of range or in contradiction; every one is listed.
    #[error("generation settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// Prompts that the model cannot take; every one is listed.
    #[error("{}", list(.0))]
    Prompts(Vec<PromptProblem>),
    /// The model produced a logit that is not a number.
    #[error(
        "the model's logits for prompt {row} are not finite after {generated} generated tokens; \
         the weights or the adapter hold NaN or overflow in this dtype (try f32)"
    )]
    NotFinite {
        /// Index of the prompt.
        row: usize,
        /// Tokens generated before it.
        generated: usize,
    },
    /// A prompt cannot be continued for another reason.
    #[error("prompt {row}: {why}")]
    Request {
        /// Index of the prompt.
        row: usize,
        /// The reason.
        why: RequestError,
    },
}

/// Why one prompt cannot be continued. `row` is its index in the list that was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptProblem {
    /// There is nothing to continue.
    #[error("prompt {row} is empty: give it at least one token (for instance the beginning-of-sequence token)")]
    Empty {
        /// Index of the prompt.
        row: usize,
    },
    /// No position is left for a new token.
    #[error("prompt {row} has {tokens} tokens, and the model has {positions} positions: shorten it to {} or fewer", positions - 1)]
    TooLong {
        /// Index of the prompt.
        row: usize,
        /// Its length.
        tokens: usize,
        /// `max_position_embeddings` of the model.
        positions: usize,
    },
    /// An id that the embedding table does not have.
    #[error("prompt {row}: token {index} is id {id}, and the vocabulary ends at {}: is this the model's own tokenizer?", vocab - 1)]
    OutOfVocabulary {
        /// Index of the prompt.
        row: usize,
        /// Position of the first such token.
        index: usize,
        /// The id.
        id: u32,
        /// `vocab_size` of the model.
        vocab: usize,
    },
}

fn list(problems: &[PromptProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
