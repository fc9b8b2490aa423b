//! Named random streams: what a module draws depends on the seed and its path alone, not on the order of modules.

use burn::tensor::{Device, Tensor, TensorData};
use ft_seed::stream;
use rand::RngExt;
use rand_distr::{Distribution, Normal};

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
