//! Models and LoRA adapters as GGUF files, for llama.cpp.
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

pub use adapter::write_adapter;
pub use model::{GgufSource, write_model};

/// The type of a tensor in a file whose matrices have type `wanted`: llama.cpp holds vectors and position tables in f32, and
/// blocks of q8_0 must fill rows.
fn dtype_for(name: &str, shape: &[usize], wanted: ft_gguf::Dtype) -> ft_gguf::Dtype {
    use ft_gguf::Dtype;
    match shape {
        [_, columns] if !name.starts_with("position_embd") => match wanted.holds(*columns) {
            true => wanted,
            false => Dtype::F16,
        },
        _ => Dtype::F32,
    }
}
