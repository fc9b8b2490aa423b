//! Kernels for graphics cards, in CubeCL: compiled on first use for CUDA, Vulkan, wgpu or Metal.
mod adamw;
mod adamw_8bit;
mod attention;
mod coded;
mod column_sum;
pub(crate) mod cross_entropy;
mod dropout;
mod few;
mod norm;
mod pointwise;
mod rope;
mod row;
#[cfg(all(test, feature = "flex", feature = "vulkan"))]
mod tests;
mod unpack;

pub(crate) use adamw::adamw;
pub(crate) use adamw_8bit::adamw_8bit;
pub(crate) use attention::Attention;
pub(crate) use dropout::dropout;
pub(crate) use few::few;
pub(crate) use norm::{norm, norm_gradients};
pub(crate) use pointwise::{alike, gelu, gelu_gradient, swiglu, swiglu_gradients};
pub(crate) use rope::rope;
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
fn supported(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// What is needed to index all of the tensors.
fn address_type<const N: usize>(tensors: [&CubeTensor; N]) -> AddressType {
    let types = tensors.map(CubeTensor::required_address_type);
    types.into_iter().max().unwrap_or_default()
}
