//! The factors of LoRA's update in the type that it is computed in, and their gradients in the factors' own.
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::{Val, once};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

/// The type that the factors are rounded to beside x, where they are: on graphics cards bf16 meets bf16, with sums in f32, as in
/// torch's autocast. A copy of x in f32 would be the most that the update moves.
pub(crate) fn rounds_beside<const D: usize>(x: &Tensor<D>) -> Option<DType> {
    (x.dtype() == DType::BF16 && !crate::is_cpu(&x.device())).then_some(DType::BF16)
}

/// Two tensors in another type, in one launch.
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait CastOps: Backend {
    /// `scale·a` and `scale·b` in `dtype`, rounded once.
    #[fusion(meta = |a, b, _scale, dtype| (in_type(a, *dtype), in_type(b, *dtype)))]
    fn cast_both(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        dtype: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(a, b, scale, dtype)
    }
}

#[cfg(feature = "gpu")]
fn in_type(x: &burn::backend::fusion::custom::TensorSpec, dtype: DType) -> burn::backend::fusion::custom::TensorSpec {
    burn::backend::fusion::custom::TensorSpec::new(x.shape.clone(), dtype)
}

fn portable<B: Backend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
    dtype: DType,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let cast = |x| Val::<B>(x).wide().scale(scale).cast(dtype).0;
    (cast(a), cast(b))
}

#[cfg(feature = "gpu")]
impl CastOps for burn_cubecl::CubeBackend {
    fn cast_both(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        dtype: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let empty = [&a, &b].iter().any(|x| x.shape().num_elements() == 0);
        match cube::alike([&a, &b]) && cube::supported(dtype) && !empty {
            true => cube::cast_both(a, b, scale, dtype),
            false => portable::<Self>(a, b, scale, dtype),
        }
    }
}

#[cfg(feature = "flex")]
impl CastOps for burn::backend::Flex {}

impl<B: CastOps, C: CheckpointStrategy> CastOps for Autodiff<B, C> {
    fn cast_both(
        _a: FloatTensor<Self>,
        _b: FloatTensor<Self>,
        _scale: f64,
        _dtype: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        once("lora_linear")
    }
}

/// a and b as they are computed with.
pub(crate) fn factors<B: CastOps>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    rounds: Option<DType>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    match rounds.filter(|dtype| [&a, &b].iter().any(|x| x.dtype() != *dtype)) {
        Some(dtype) => B::cast_both(a, b, 1.0, dtype),
        None => (a, b),
    }
}

/// What the gradients to the factors are made of, beside their products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FactorGradients {
    /// The types of a and b.
    pub dtypes: [DType; 2],
    pub scale: f64,
    /// The type that they were rounded to.
    pub rounds: Option<DType>,
}

impl FactorGradients {
    /// The type that the update is computed in.
    pub fn computed(&self) -> DType {
        self.rounds.unwrap_or(self.dtypes[0])
    }

    /// What the products are to be multiplied with: where factors were rounded, their gradients are scaled as they are widened.
    pub fn product_scale(&self) -> f64 {
        if self.rounds.is_some() { 1.0 } else { self.scale }
    }

    /// Registers gradients to a and b that were multiplied with [`product_scale`](Self::product_scale).
    pub fn register<B: CastOps>(
        &self,
        grads: &mut Gradients,
        a: Option<(NodeId, FloatTensor<B>)>,
        b: Option<(NodeId, FloatTensor<B>)>,
    ) {
        let given = match (a, b, self.rounds) {
            (Some((a, da)), Some((b, db)), Some(_)) => {
                let (da, db) = B::cast_both(da, db, self.scale, self.dtypes[0]);
                [Some((a, da)), Some((b, db))]
            }
            (a, b, Some(_)) => [a, b].map(|one| one.map(|(node, x)| (node, Val::<B>(x).wide().scale(self.scale).0))),
            (a, b, None) => [a, b],
        };
        for (one, dtype) in given.into_iter().zip(self.dtypes) {
            if let Some((node, gradient)) = one {
                grads.register::<B>(node, Val::<B>(gradient).cast(dtype).0);
            }
        }
    }
}
