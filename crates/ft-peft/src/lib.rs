//! How a layer is changed: adapter slots, attach, fold, and PEFT-compatible adapter files.

pub mod adapter;
mod attach;
mod error;
pub mod methods;
mod patterns;
mod peft_config;
mod site;
mod slots;
mod stream;
mod targets;

pub use attach::{Attached, PlaceSpec, attach, fold, places, preview};
pub use error::{Error, Result};
pub use methods::{Delta, EmbeddingDelta, PeftConfig};
pub use patterns::Patterns;
pub use site::{Adaptable, AnyTensor, Place, Site};
pub use slots::{Embedding, Norm, Pass, Projection};
pub use targets::{Kind, Layers, Selector, Targets};
