//! Products whose output nobody reads, made for their backward pass alone.
#[cfg(all(test, feature = "flex"))]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Scalar, TensorMetadata};
use burn::tensor::FloatDType;

/// Whether anybody reads the output of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// It is computed.
    #[default]
    Read,
    /// It holds zeros: where a block is computed again for its backward pass, whose start is the known gradient to this
    /// output, the product itself would be thrown away. The gradients are those of the product.
    Unread,
}

impl Output {
    /// x `[.., in]` -> `[.., out]`: what `product` makes of `x`, or zeros in the type of `x`.
    pub(crate) fn of<B: Backend>(
        self,
        x: FloatTensor<B>,
        out: usize,
        product: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>,
    ) -> FloatTensor<B> {
        match self {
            Self::Read => product(x),
            Self::Unread => {
                let mut shape = x.shape();
                let last = shape.num_dims() - 1;
                shape[last] = out;
                let (device, dtype) = (x.device(), FloatDType::from(x.dtype()));
                // Mostly nothing else holds it, and it is the widest tensor of a block.
                drop(x);
                // `float_zeros` of the CPU makes bytes, which are copied when a sum is written in their place.
                B::float_full(shape, Scalar::from(0.0), &device, dtype)
            }
        }
    }
}
