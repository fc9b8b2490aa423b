//! GGUF files, the format of llama.cpp and its relatives: written (version 3) and read (2 and 3).
//!
//! ```text
//!  "GGUF" 3 | counts | metadata: key, type, value .. | tensors: name, dims, type, offset .. | data, each tensor aligned
//!                      (value.rs)                                                    (encode.rs: blocks.rs, k_quants.rs)
//! ```
//!
//! [`File`] reads one (read.rs; what blocks stand for is in tensor_type.rs): every count and size is checked against the length of the file
//! before memory is taken for it.
//!
//! The names and shapes of all tensors come first, so [`write`] takes them up front and asks for the values one tensor at a
//! time. What the keys and names mean is the business of the crates that fill them: ft-data for tokenizers, ft-model for
//! models and adapters.
//!
//! ```
//! use ft_gguf::{Dtype, Metadata, TensorInfo, write};
//!
//! let mut metadata = Metadata::default();
//! metadata.put("general.architecture", "llama");
//! metadata.put("llama.block_count", 2u32);
//! let tensors = [TensorInfo::new("output_norm.weight", &[4], Dtype::F32)];
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("model.gguf");
//! write(&path, &metadata, &tensors, |_| Ok::<_, std::io::Error>(vec![1.0; 4]))?;
//! assert_eq!(&std::fs::read(&path)?[..4], b"GGUF");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod blocks;
mod encode;
mod file_type;
mod k_quants;
mod read;
mod tensor_type;
mod tokens;
mod value;
mod write;

pub use encode::Dtype;
pub use file_type::{FileShape, FileType};
pub use read::{Error, File, Tensor, is_gguf};
pub use tensor_type::TensorType;
pub use value::{Metadata, Value};
pub use write::{TensorInfo, write};
