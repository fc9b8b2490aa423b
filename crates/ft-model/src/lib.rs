//! Decoder and encoder families loaded from Hugging Face checkpoints, with one forward pass for training and generation.
//!
//! ```text
//! config.json ──> ModelConfig ──┐
//! *.safetensors ─> Checkpoint ──┴─> Model ──forward(ids)──> hidden ──logits / nll_sum──>
//!                                     └── Adaptable: the modules that ft-peft can change, by checkpoint path
//! ```
//!
//! [`families::list`] names the families. A GGUF file stands for a folder wherever one is read ([`gguf`]).
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor};
//! use ft_model::{Model, ModelConfig, Rows};
//! use ft_peft::Pass;
//!
//! let config = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
//! let config = ModelConfig::from_json(config, "config.json".as_ref())?;
//! let device = Device::flex();
//! let model = Model::init(&config, 0, &device);
//! let ids = Tensor::<2, Int>::from_ints([[1, 2, 3]], &device);
//! let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
//! assert_eq!(model.logits(hidden).dims(), [1, 3, 32]);
//! # Ok::<(), ft_model::Error>(())
//! ```

mod apart;
mod block;
mod block_activations;
mod cache;
mod checkpoint;
mod config;
mod convolution;
mod error;
mod expert_paths;
pub mod families;
pub mod gguf;
mod heads;
mod hidden_projections;
mod keys;
mod layers;
mod loader;
mod masked_head;
mod model;
mod mxfp4;
mod numbers;
mod outline;
mod quantized;
mod random;
mod rope;
pub mod routing;
mod rows;
mod save;
mod source;
mod stacked;
mod text_tower;
mod to_distilbert;
mod to_lora;
mod virtual_tokens;
mod vocabulary;

pub use apart::NextTokens;
pub use block::{Activation, Block, DeltaConfig, ExpertsConfig, Norms, QkNorm, QueryScale};
pub use block_activations::BlockActivations;
pub use cache::KvCache;
pub use checkpoint::{Checkpoint, Entry};
pub use config::ModelConfig;
pub use error::{Error, Result};
pub use families::encoder::EncoderConfig;
pub use heads::{HeadConfig, HeadKind, Pool, Problem};
pub use loader::{LoadDtype, held_as};
pub use model::Model;
pub use outline::TensorSpec;
pub use quantized::check_quantizable;
pub use rope::{Rope, RopeScaling};
pub use rows::Rows;
pub use save::SHARD_BYTES;
pub use to_lora::{Converted, ToLora, to_lora};
