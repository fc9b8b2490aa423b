//! Inverted dropout whose mask is a pure function of a seed and the element index.
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::Val;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Scalar, TensorMetadata, backend_extension};
use burn::tensor::{IntDType, Tensor};

/// Zeroes each element with probability `p` and scales the rest by `1/(1-p)`.
///
/// Element `i` (in row-major order) survives iff `hash(seed, i) >= p·2³²`: no generator state is read or written, the
/// mask is the same on every backend and for any number of threads, and backward computes it again instead of keeping it.
///
/// # Panics
/// If `p` is not in `[0, 1]`.
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64, seed: u64) -> Tensor<D> {
    match Mask::new(p, seed) {
        Some(mask) => Tensor::from_dispatch(<Dispatch as DropoutOps>::drop_hashed(x.into_dispatch(), mask)),
        None => x,
    }
}

/// Which elements survive.
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    seed: u64,
    /// Hashes below it are dropped.
    pub(crate) threshold: u32,
    p: f64,
}

impl Mask {
    /// `None` if nothing is dropped.
    ///
    /// # Panics
    /// If `p` is not in `[0, 1]`.
    pub(crate) fn new(p: f64, seed: u64) -> Option<Self> {
        assert!((0.0..=1.0).contains(&p), "dropout: probability {p}");
        let threshold = (p * (1u64 << 32) as f64).min(f64::from(u32::MAX)) as u32;
        (p > 0.0).then_some(Self { seed, threshold, p })
    }

    /// What survivors are multiplied by.
    pub(crate) fn scale(&self) -> f32 {
        if self.p < 1.0 {
            (1.0 / (1.0 - self.p)) as f32
        } else {
            0.0
        }
    }

    /// The hash keys of the 2³² elements around `index`.
    pub(crate) fn keys(&self, index: u64) -> [u32; 2] {
        let key = splitmix(self.seed ^ splitmix(index >> 32));
        [key as u32, (key >> 32) as u32]
    }
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014).
fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Multipliers of the 32-bit mixer, below 2³¹ so that products of backends that compute in i64 do not overflow.
pub(crate) const MIX: [u32; 2] = [0x21F0_AAAD, 0x735A_2D97];
/// Its shifts.
pub(crate) const SHIFTS: [u32; 3] = [16, 15, 15];

/// A well mixed 32-bit value of an index under two keys.
#[inline(always)]
pub(crate) fn hash(index: u32, keys: [u32; 2]) -> u32 {
    let mut x = index;
    for key in keys {
        x ^= key;
        x = (x ^ (x >> SHIFTS[0])).wrapping_mul(MIX[0]);
        x = (x ^ (x >> SHIFTS[1])).wrapping_mul(MIX[1]);
        x ^= x >> SHIFTS[2];
    }
    x
}

/// The backend operation of [`dropout`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait DropoutOps: Backend {
    /// Zeroes what the mask drops and scales the rest.
    #[fusion(dtype = x, shape = x)]
    fn drop_hashed(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        portable::<Self>(x, mask)
    }
}

/// A composition of Burn's operations: the same hash on unsigned integer tensors, which wrap around.
fn portable<B: Backend>(x: FloatTensor<B>, mask: Mask) -> FloatTensor<B> {
    let (shape, device, dtype) = (x.shape(), x.device(), x.dtype());
    let mut hashes = B::int_arange(0..shape.num_elements() as i64, &device, IntDType::U32);
    let fold = |x: burn::backend::tensor::IntTensor<B>, shift: u32| {
        let shifted = B::bitwise_right_shift_scalar(x.clone(), Scalar::from(shift));
        B::bitwise_xor(x, shifted)
    };
    for key in mask.keys(0) {
        hashes = B::bitwise_xor_scalar(hashes, Scalar::from(key));
        hashes = B::int_mul_scalar(fold(hashes, SHIFTS[0]), Scalar::from(MIX[0]));
        hashes = B::int_mul_scalar(fold(hashes, SHIFTS[1]), Scalar::from(MIX[1]));
        hashes = fold(hashes, SHIFTS[2]);
    }
    let store = burn::tensor::BoolDType::from(burn::tensor::BoolStore::Native);
    let dropped = B::int_lower_elem(hashes, Scalar::from(mask.threshold), store);
    let dropped = B::bool_reshape(dropped, shape);
    let x = Val::<B>(x).wide().scale(f64::from(mask.scale()));
    Val::<B>(B::float_mask_fill(x.0, dropped, Scalar::from(0.0)))
        .cast(dtype)
        .0
}

#[cfg(feature = "gpu")]
impl DropoutOps for burn_cubecl::CubeBackend {
    fn drop_hashed(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        match cube::fits(&x) {
            true => cube::dropout(x, mask),
            false => portable::<Self>(x, mask),
        }
    }
}

#[cfg(feature = "flex")]
impl DropoutOps for burn::backend::Flex {
    fn drop_hashed(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        if cpu::flex::all_f32([&x]) {
            cpu::pointwise::dropout(x, mask)
        } else {
            portable::<Self>(x, mask)
        }
    }
}

impl<B: DropoutOps, C: CheckpointStrategy> DropoutOps for Autodiff<B, C> {
    fn drop_hashed(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match Dropout.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(mask, B::drop_hashed(x, mask)),
            OpsKind::UnTracked(prep) => prep.finish(B::drop_hashed(x, mask)),
        }
    }
}

#[derive(Debug)]
struct Dropout;

impl<B: DropoutOps> Backward<B, 1> for Dropout {
    type State = Mask;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::drop_hashed(dy, ops.state));
        }
    }
}
