//! Kernels for graphics cards, in CubeCL: compiled on first use for CUDA, Vulkan, wgpu or Metal.
mod coded;
mod dropout;
mod few;
#[cfg(all(test, feature = "flex", feature = "vulkan"))]
mod tests;
mod unpack;

pub(crate) use dropout::dropout;
pub(crate) use few::few;
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
