//! Tensor operations that Burn lacks or that a fused version makes faster, each with its own backward pass.
mod attention;
#[cfg(feature = "flex")]
mod cpu;
mod cross_entropy;
mod dropout;
mod gelu;
mod layer_norm;
mod linear;
mod lora_linear;
mod portable;
mod rms_norm;
mod rope;
mod swiglu;
#[cfg(all(test, feature = "flex"))]
mod testing;

pub use attention::{Mask, attention};
pub use cross_entropy::{cross_entropy, token_nll};
pub use dropout::dropout;
pub use gelu::gelu_tanh;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use lora_linear::lora_linear;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;
