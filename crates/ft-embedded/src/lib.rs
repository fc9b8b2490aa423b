//! The embedded default: a tiny Llama, its tokenizer and a question-answering data set, carried inside the binary so
//! that a fine-tuning can be seen with nothing at hand.
//!
//! ```text
//! grammar (a little world of people and things)
//!    ├─ corpus ── tokenizer, pretraining by `ft train` ─> model.safetensors     `cargo xtask base` makes all of it
//!    └─ lessons ────────────────────────────────────────> train.jsonl, valid.jsonl
//! unpack(dir) writes the lot as an ordinary model folder; everything after that is paths
//! ```
//!
//! ```
//! let dir = tempfile::tempdir()?;
//! ft_embedded::unpack(dir.path())?;
//! assert!(dir.path().join("model.safetensors").exists());
//! assert!(ft_embedded::quickstart_config().contains("[peft]"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The base has read about who lives where and which key costs how much, told again and again in other words, but no
//! text in which a question is answered. The fine-tuning teaches it to answer, about people, towns and things that
//! its data never mentions.

mod assets;
mod error;
pub mod grammar;
pub mod recipe;

pub use assets::{ASSETS, Asset, quickstart_config, unpack};
pub use error::{Error, Result};
