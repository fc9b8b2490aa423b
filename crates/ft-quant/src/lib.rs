//! How a frozen matrix is stored, and how an activation is multiplied by it.
//!
//! ```text
//! Leaf<D>   one tensor of a checkpoint: a constant until `attach` makes it trainable
//! Weight    one matrix of a checkpoint behind the only door the layers use: `project`
//!   Dense     a Leaf<2>
//!   Packed    codes and scales on the device: nf4, fp4, int8   <── Encoded, the same in host memory ──> bnb, the same on disk
//! ```
//!
//! A constant is a plain tensor field, so Burn moves it with the module but never visits it: optimizers,
//! gradients and checkpoints see only what trains.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use ft_quant::{Layout, Weight};
//!
//! let device = Device::flex();
//! let w = Weight::new(Tensor::from_floats([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device), Layout::OutIn);
//! let y = w.project(Tensor::<2>::from_floats([[1.0, 1.0]], &device));
//! assert_eq!(y.into_data().to_vec::<f32>().unwrap(), [3.0, 7.0, 11.0]);
//! ```

mod blocks;
pub mod bnb;
mod dynamic_map;
mod encoded;
mod error;
mod fp4;
mod int8;
mod leaf;
mod nested;
mod nf4;
mod packed;
mod scheme;
#[cfg(test)]
mod tests;
mod weight;

pub use dynamic_map::{DynamicMap, SIGNED, UNSIGNED};
pub use encoded::{Encoded, Scales};
pub use error::{Error, Result};
pub use leaf::Leaf;
pub use nested::Nested;
pub use packed::Packed;
pub use scheme::{Kind, Scheme};
pub use weight::{Layout, Storage, Weight};
