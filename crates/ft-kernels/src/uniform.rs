//! Noise that is a pure function of a seed.

use crate::dropout::hash;
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Numbers uniform in [-1, 1), f32. Element `i` (in row-major order) is a hash of the seed and `i`, as in
/// [`dropout`](crate::dropout): the same on every backend, without generator state.
pub fn uniform<const D: usize>(dims: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let keys = [seed as u32, (seed >> 32) as u32];
    // 24 bits, as many as an f32 holds exactly.
    let number = |index: u32| (hash(index, keys) >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| number(i as u32)).collect();
    Tensor::from_data(TensorData::new(values, dims), (device, DType::F32))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_depend_on_the_seed_alone() {
        let draw = |seed| {
            uniform([100, 1000], seed, &Device::flex())
                .into_data()
                .try_to_vec::<f32>()
                .unwrap()
        };
        let (a, b) = (draw(1), draw(2));
        assert_eq!(a, draw(1));
        assert_ne!(a, b);
        assert!(a.iter().all(|x| (-1.0..1.0).contains(x)));
        let moment = |power: i32| a.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / a.len() as f64;
        // 0, 1/3, 0 and 1/5, each within four standard errors.
        assert!(moment(1).abs() < 0.008 && (moment(2) - 1.0 / 3.0).abs() < 0.004);
        assert!(moment(3).abs() < 0.005 && (moment(4) - 0.2).abs() < 0.004);
        let neighbours = a.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / a.len() as f64;
        assert!(neighbours.abs() < 0.005, "{neighbours}");
    }
}
