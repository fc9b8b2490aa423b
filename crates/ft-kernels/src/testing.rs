//! What the tests of the operations share: values, tensors, and gradients by central differences in f64.
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};

/// Deterministic values in [-1, 1).
pub(crate) fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    // Values that f32 holds exactly, so that both types start from the same numbers.
    (0..n).map(|_| next()).collect()
}

/// The CPU with automatic differentiation.
pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

/// A tensor on the autodiff device, tracked or constant.
pub(crate) fn leaf<const D: usize>(values: &[f64], dims: [usize; D], dtype: DType, tracked: bool) -> Tensor<D> {
    let tensor = Tensor::<D>::from_data(TensorData::new(values.to_vec(), dims), (&device(), dtype));
    if tracked { tensor.require_grad() } else { tensor }
}

/// Integers on the plain device.
pub(crate) fn ints<const D: usize>(values: &[i64], dims: [usize; D]) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), dims), &Device::flex())
}

/// The values in f64.
pub(crate) fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_to_vec().unwrap()
}

/// The gradient of a leaf, if it got one.
pub(crate) fn gradient<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Option<Vec<f64>> {
    leaf.grad(gradients).map(to_vec)
}

/// `Σ y · weights`, backward.
pub(crate) fn backward<const D: usize>(y: Tensor<D>, weights: &[f64]) -> Gradients {
    let weights = leaf(weights, y.dims(), y.dtype(), false);
    (y * weights).sum().backward()
}

/// The gradient of `f` at `x` by central differences.
pub(crate) fn numeric(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    let slope = |i: usize, x: &mut Vec<f64>| {
        let old = x[i];
        x[i] = old + STEP;
        let high = f(x);
        x[i] = old - STEP;
        let low = f(x);
        x[i] = old;
        (high - low) / (2.0 * STEP)
    };
    (0..x.len()).map(|i| slope(i, &mut x)).collect()
}

/// `Σ a · b`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The largest error that a type allows on values near 1.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-8,
        DType::F32 => 1e-5,
        DType::BF16 => 2e-2,
        DType::F16 => 3e-3,
        other => panic!("no tolerance for {other:?}"),
    }
}

/// Fails unless all values agree to `bound`, absolutely or relatively.
#[track_caller]
pub(crate) fn close(got: &[f64], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound * w.abs().max(1.0), "{what}[{i}]: {g} for {w}");
    }
}

/// Logits bounded softly, where there is a cap.
pub(crate) fn bounded(logits: Vec<f64>, cap: Option<f64>) -> Vec<f64> {
    let bound = |x: f64| cap.map_or(x, |cap| cap * (x / cap).tanh());
    logits.into_iter().map(bound).collect()
}

/// `x [n, k] · wᵀ`, w `[m, k]`.
pub(crate) fn times_transposed(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    x.chunks(k)
        .flat_map(|x| w.chunks(k).map(|w| dot(x, w)).collect::<Vec<_>>())
        .collect()
}
