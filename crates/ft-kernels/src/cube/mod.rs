//! Kernels for graphics cards, in CubeCL: compiled on first use for CUDA, Vulkan, wgpu or Metal.
//!
//! | file | launches | for |
//! |---|---|---|
//! | `norm` | 1; backward 1, or 2 with gradients to the weights | RMSNorm, LayerNorm; RMSNorm with the residual's sum, and its gradient |
//! | `pointwise` | 1; backward 1 | SwiGLU, GELU |
//! | `rope` | 1; backward 1 | rotary embedding, of queries and keys together before attention |
//! | `attention` | 1, or 2 for one query of more than 256 keys; backward 3 | attention with any [`crate::Mask`], heads that fit into shared memory |
//! | `cross_entropy` | 1 a chunk of logits beside the products | losses and their gradients, in place of the logits |
//! | `embedding` | backward 1 after the zeros | the gradient to a table |
//! | `many` | 1 for up to 32 tensors; the norm 1 more | norm and scaling of all gradients |
//! | `adamw`, `adamw_8bit` | 1 for up to 32 parameters | AdamW with moments in f32 and in codes |
//! | `low_rank` | 1 beside the two other products, forward; backward 1 and a transposition | LoRA's second product, added to the first |
//! | `cast` | 1 for both factors, and 1 for their gradients | LoRA's factors beside activations in bf16 |
//! | `dropout` | 1 | dropout |
//! | `few`, `unpack` | 1 | products with and copies of matrices in codes |
//!
//! Inputs and outputs are f32, f16 or bf16, and everything between is f32. Sums have one order: no atomics. What no kernel takes
//! (f64, heads too wide for the memory of a device) is a composition of Burn's operations.
//!
//! No card was at hand. All of them ran in f32 and f16 on a Vulkan device in software (Mesa's lavapipe, as WGSL), with values and
//! gradients compared with the CPU's, and were compiled as CUDA for sm_80, sm_90 and sm_100, bf16 included, where nothing ran them.
//! Products of attention on matrix units are in the CUDA sources alone: `xtask/null-cuda/emulate` compiles these sources for the
//! host, in bf16, with `nvcuda::wmma` written out; outputs and gradients are within bf16's rounding of loops in f64.
mod adamw;
mod adamw_8bit;
mod attention;
mod cast;
mod coded;
mod column_sum;
pub(crate) mod cross_entropy;
mod dropout;
mod embedding;
mod few;
mod low_rank;
mod many;
mod norm;
mod pointwise;
mod rope;
mod row;
#[cfg(all(test, feature = "flex", feature = "vulkan"))]
mod tests;
mod tile;
mod unpack;

pub(crate) use adamw::adamw;
pub(crate) use adamw_8bit::adamw_8bit;
pub(crate) use attention::Attention;
pub(crate) use cast::cast_both;
pub(crate) use dropout::dropout;
pub(crate) use embedding::embedding_gradient;
pub(crate) use few::few;
pub(crate) use low_rank::add_low_rank;
pub(crate) use many::{scale_each, sum_of_squares};
pub(crate) use norm::{add_norm, norm, norm_gradients};
pub(crate) use pointwise::{alike, gelu, gelu_gradient, swiglu, swiglu_gradients};
pub(crate) use rope::{rope, rope_both};
pub(crate) use row::rows_fit;
pub(crate) use unpack::unpack;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::AddressType;

/// Whether [`few`] and [`dropout`] take such a tensor.
pub(crate) fn fits(x: &CubeTensor) -> bool {
    supported(x.dtype) && x.shape().num_elements() > 0
}

/// Whether the kernels have this element type.
pub(crate) fn supported(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// What is needed to index all of the tensors.
fn address_type<const N: usize>(tensors: [&CubeTensor; N]) -> AddressType {
    let types = tensors.map(CubeTensor::required_address_type);
    types.into_iter().max().unwrap_or_default()
}
