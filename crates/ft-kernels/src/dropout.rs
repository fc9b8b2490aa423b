//! Inverted dropout whose mask is a pure function of a seed and the element index.
use burn::tensor::{FloatDType, Tensor};

/// Zeroes each element with probability `p` and scales the rest by `1/(1-p)`.
///
/// The mask depends on (`seed`, flat element index) alone: no generator state is read or written.
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64, seed: u64) -> Tensor<D> {
    if p <= 0.0 {
        return x;
    }
    let n = x.shape().num_elements();
    let kept: Vec<f32> = (0..n)
        .map(|i| {
            if hash(seed, i as u64) >= p {
                (1.0 / (1.0 - p)) as f32
            } else {
                0.0
            }
        })
        .collect();
    let device = x.device();
    let mask = Tensor::<1>::from_data(kept.as_slice(), &device)
        .reshape(x.dims())
        .cast(FloatDType::from(x.dtype()));
    x * mask
}

fn hash(seed: u64, index: u64) -> f64 {
    let mut z = (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
