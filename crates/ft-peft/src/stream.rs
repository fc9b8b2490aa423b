//! Named random streams: what a place draws depends on the seed and its path alone, not on the order of places.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// FNV-1a of a name.
pub(crate) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The stream that `name` draws from under `seed`.
pub(crate) fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&hash(name).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// A matrix `[rows, cols]` uniform in ±1/√cols, as PyTorch starts linear layers.
pub(crate) fn kaiming(shape: [usize; 2], seed: u64, name: &str, device: &Device) -> Tensor<2> {
    let mut rng = stream(seed, name);
    let bound = 1.0 / (shape[1] as f32).sqrt();
    let values = (0..shape[0] * shape[1]).map(|_| rng.random_range(-bound..bound));
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
}

/// A matrix of normal numbers around 0.
pub(crate) fn normal(shape: [usize; 2], deviation: f64, seed: u64, name: &str, device: &Device) -> Tensor<2> {
    let mut rng = stream(seed, name);
    let normal = Normal::new(0.0, deviation as f32).expect("a positive deviation");
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| normal.sample(&mut rng)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
