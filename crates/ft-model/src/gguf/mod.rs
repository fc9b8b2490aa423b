//! Models and LoRA adapters as GGUF files, for llama.cpp; and models in such files as checkpoints (read).
//!
//! ```text
//! config.json ─> metadata (hparams.rs)          checkpoint ─┐ one tensor at a time,
//! path        ─> name and row order (names.rs)  adapter ────┴─ folded ─> file (model.rs)
//!                                               A, B ──────────────────> file (adapter.rs)
//! ```

mod adapter;
mod hparams;
mod model;
mod names;
mod read;

pub use adapter::write_adapter;
pub use ft_gguf::is_gguf;
pub(crate) use model::table;
pub use model::{GgufSource, write_model};
pub(crate) use read::{entries, keys, open};
