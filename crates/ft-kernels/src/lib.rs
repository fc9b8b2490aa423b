//! Tensor operations that Burn lacks or that a fused version makes faster, each with its own backward pass.
//!
//! ```text
//!  Tensor<D>  --->  one function per operation, one file each
//!                       |
//!        trait XOps: a composition of Burn's operations      any backend, any float type
//!          |-- Flex: fused f32 code in `cpu`                 threads (rayon), AVX-512 / AVX2 found at run time
//!          |-- Cube: CubeCL kernels in `cube`                graphics cards, in f32, f16 and bf16
//!          `-- Autodiff: the backward pass by hand           keeps only what the tracked inputs need
//! ```
//! Weights are `[out, in]`, activations `[batch, seq, hidden]`, attention tensors `[batch, seq, heads, head_dim]`.
//! Results do not depend on the number of threads; products round differently with other vector instructions
//! (`FT_ISA=avx2` or `FT_ISA=base` in the environment limits them). A constant (an input that is not tracked) gets no
//! gradient, and nothing is computed or kept for one.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//!
//! let device = Device::flex().autodiff();
//! let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
//! let frozen = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &device);
//! let a = Tensor::<2>::from_floats([[1.0, -1.0]], &device).require_grad();
//! let b = Tensor::<2>::from_floats([[0.0], [0.0], [2.0]], &device).require_grad();
//!
//! let y = ft_kernels::lora_linear(x, frozen.clone(), a.clone(), b, 0.5);
//! assert_eq!(y.to_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0, 2.0]);
//!
//! let gradients = y.sum().backward();
//! assert_eq!(a.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0]);
//! assert!(frozen.grad(&gradients).is_none());
//! ```
mod adamw;
mod adamw_8bit;
mod attention;
mod backward_from;
mod bottleneck;
mod clamped_swiglu;
#[cfg(feature = "flex")]
mod cpu;
mod cross_entropy;
#[cfg(feature = "gpu")]
mod cube;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod distillation;
mod dropout;
mod embedding;
mod frozen_lora;
mod frozen_matmul;
mod gelu;
mod head;
mod layer_norm;
mod linear;
#[cfg(feature = "gpu")]
mod list;
mod lora_linear;
mod many;
mod output;
mod packed;
mod portable;
mod residual_norm;
mod rms_norm;
mod rope;
mod row_invariant;
mod swiglu;
#[cfg(all(test, feature = "flex"))]
mod testing;
mod tuned;
mod uld;
mod uniform;

pub use adamw::{AdamWStep, ManyAdamW, UpdatedAdamW, adamw};
pub use adamw_8bit::{AdamW8bitStep, CodeMap, Coded8bit, ManyAdamW8bit, Updated8bit};
pub use attention::{Mask, Past, Scoring, attention, attention_apart, rotary_attention};
pub use backward_from::backward_from;
pub use bottleneck::{NonLinearity, bottleneck};
pub use clamped_swiglu::{Clamp, clamped_swiglu};
pub use cross_entropy::{cross_entropy, cross_entropy_rows, smoothed_cross_entropy, token_nll};
#[cfg(feature = "cuda")]
pub use cuda::{cuda_lacks, has_nccl};
pub use device::is_cpu;
pub use distillation::{Distillation, DistillationOptions, Teacher, distillation, teacher_topk};
pub use dropout::dropout;
pub use embedding::embedding;
pub use frozen_lora::frozen_lora;
pub use frozen_matmul::{frozen_matmul, frozen_matmul_for, unpack};
pub use gelu::gelu_tanh;
pub use head::{Head, soft_cap};
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_for};
pub use lora_linear::{lora_linear, lora_linear_for};
pub use many::{Many, Scaled};
pub use output::Output;
pub use packed::{Codes, Form, Nested, Packed};
pub use residual_norm::residual_norm;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use row_invariant::row_invariant;
pub use swiglu::swiglu;
pub use tuned::keep_tuned;
pub use uld::{SpanPair, UldOptions, UldTeacher, uld};
pub use uniform::uniform;
