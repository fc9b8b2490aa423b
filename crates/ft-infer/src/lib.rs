//! Text generation: prompts in, continuations out, one forward pass per token over a cache of keys and values.
//!
//! ```text
//!  GenerationOptions  (typed)  ─┐
//!  generation_config.json      ─┴─▶ GenerationConfig
//!                                        │
//!  prompts ─▶ steps: a piece of a prompt, or one token per row ─▶ logits ─▶ penalties ─▶ temperature ─▶ top-k ─▶ top-p ─▶ min-p ─▶ draw
//!                      ▲                                                     (or arg max, or beams)                             │
//!                      └───────────────────────────────── one token per row ◀───────────────────────────────────────────────────┘
//!                                                         Token to the callback; rows that end make room for prompts that wait
//! ```
//!
//! The order of the filters and their borderline cases are those of transformers' `generate`, so greedy decoding, penalties and
//! beam search give the same tokens; sampling gives the same distribution.
//!
//! There is one way to decode, the engine's steps: [`generate`] takes them over a model that it borrows, for a list of prompts; [`Engine`]
//! owns its model on a thread, and takes requests at any time, each with its own settings and adapter.
//!
//! ```
//! use ft_infer::{GenerationConfig, GenerationOptions};
//!
//! // What the checkpoint says, and on top of it what was typed.
//! let checkpoint = GenerationConfig { top_k: 20, top_p: 0.8, ..GenerationConfig::greedy(256, [2]) };
//! let typed = GenerationOptions { temperature: Some(0.7), seed: Some(1), ..Default::default() };
//! let config = checkpoint.with(&typed)?;
//! assert!(config.do_sample && config.top_k == 20);
//!
//! // let answers = ft_infer::generate(&model, &prompts, &config, &mut ft_infer::no_stream)?;
//! # Ok::<(), ft_infer::Error>(())
//! ```

mod beam;
mod checkpoint;
mod config;
mod embed;
mod engine;
mod error;
mod generate;
mod generation;
mod penalty;
mod prompts;
mod sample;
mod structure;
#[cfg(test)]
mod table;
mod text;

pub use config::{EarlyStopping, GenerationConfig, GenerationOptions};
pub use embed::{EmbeddingConfig, Pooling, embed};
pub use engine::{
    AdapterInfo, Elapsed, Engine, EngineOptions, Event, Events, Request, RequestError, Stats, TokenScore,
};
pub use error::{Error, PromptProblem, Result};
pub use generate::{MixedRows, generate, generate_mixed, generate_some};
pub use generation::{FinishReason, Generation, Token, no_stream};
pub use structure::{Structure, Vocabulary};
pub use text::{AnswerText, Piece, Texts};
