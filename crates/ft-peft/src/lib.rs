//! How a layer is changed: adapter slots, attach, fold, and PEFT-compatible adapter files.
//!
//! ```text
//!  Projection, Embedding,
//!  Norm, Residual                 modules of a model, with an empty slot each (slots.rs)
//!        ^ Adaptable::target_modules   a model lists them by checkpoint path (target_module.rs)
//!  attach(model, config, seed)    freezes, fills the slots, says what trains (attach.rs)
//!  fold(model)                    merges the slots into the weights
//!  adapter::{load, save}          folders of PEFT (adapter.rs, peft_config.rs) and AdapterHub (adapterhub.rs), strictly
//!  Adapters                       several of them by name: switched, off, or one per row (adapters.rs)
//!  plain::{PlainLora, combine}    LoRA folders as matrices, to export and combine (plain/)
//!  methods/                       one file per method
//! ```
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use ft_peft::{Adaptable, Pass, PeftConfig, Projection, TargetModule, attach, fold};
//! use ft_quant::Layout;
//!
//! struct Layer(Projection);
//!
//! impl Adaptable for Layer {
//!     fn target_modules(&mut self) -> Vec<TargetModule<'_>> {
//!         vec![TargetModule::projection("layers.0.proj", &mut self.0)]
//!     }
//!     fn head_path(&self) -> &str {
//!         "lm_head"
//!     }
//!     fn untie_head(&mut self) {}
//! }
//!
//! let device = Device::flex();
//! let mut layer = Layer(Projection::new(Tensor::ones([16, 8], &device), Layout::OutIn, None));
//! let attached = attach(&mut layer, &PeftConfig::default(), 0)?;
//! assert_eq!(attached.parameters, 8 * (16 + 8)); // LoRA of rank 8
//! let y = layer.0.forward(Tensor::<2>::ones([1, 8], &device), &Pass::eval());
//! assert_eq!(y.dims(), [1, 16]);
//! fold(&mut layer)?;
//! assert!(layer.0.delta.is_none());
//! # Ok::<(), ft_peft::Error>(())
//! ```

pub mod adapter;
mod adapterhub;
mod adapters;
mod attach;
pub mod convert;
mod embedding_delta;
mod error;
pub mod methods;
mod pass;
mod patterns;
mod peft_config;
pub mod plain;
mod rates;
mod saved_activations;
mod slots;
mod stream;
mod svd;
mod target_module;
mod targets;
mod tensor_file;
mod training_hook;
mod virtual_tokens;

pub use adapters::Adapters;
pub use attach::{
    Attached, Choice, ModuleSpec, attach, detach, fold, mergeable, module_specs, preview, trained_shapes,
};
pub use embedding_delta::EmbeddingDelta;
pub use error::{Error, Result};
pub use methods::lora::mixed::RowChoice;
pub use methods::lora::stack::{Earlier, stack, stackable};
pub use methods::{Base, Delta, InTraining, ParamMut, PeftConfig, PeftFile, PeftMethod, WeightDelta};
pub use pass::Pass;
pub use patterns::Patterns;
pub use peft_config::Target;
pub use rates::{Part, rates};
pub use saved_activations::SavedActivations;
pub use slots::{Embedding, Gates, Norm, Prefixes, Projection, Residual};
pub use target_module::{Adaptable, AnyTensor, AttentionShape, ModuleSlot, TargetModule, TaskHead};
pub use targets::{Kind, Layers, Selector, Targets};
pub use tensor_file::write_tensor_file;
pub use training_hook::TrainingHook;
pub use virtual_tokens::{Dense, Prefix, PrefixTable, Prompt, PromptTable, VirtualTokens};
