use super::{Mask, dropout, portable};
use crate::testing::{backward, close, gradient, leaf, to_vec, values};
use burn::tensor::DType;

const N: usize = 50_000;

fn kept(p: f64, seed: u64) -> Vec<f64> {
    to_vec(dropout(leaf(&vec![1.0; N], [N], DType::F32, false), p, seed))
}

#[test]
fn drops_the_asked_share_and_scales_the_rest() {
    for p in [0.1, 0.5, 0.9] {
        let y = kept(p, 3);
        let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / N as f64;
        assert!((dropped - p).abs() < 0.01, "{dropped} for {p}");
        let scale = f64::from((1.0 / (1.0 - p)) as f32);
        assert!(y.iter().all(|&y| y == 0.0 || y == scale));
    }
}

#[test]
fn neighbours_and_seeds_are_independent() {
    let (a, b) = (kept(0.5, 1), kept(0.5, 2));
    let agree = |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| x == y).count() as f64 / x.len() as f64;
    assert!((agree(&a, &b) - 0.5).abs() < 0.01, "seeds");
    for lag in [1, 2, 16, 64, 576, 1024] {
        assert!((agree(&a[lag..], &a) - 0.5).abs() < 0.015, "lag {lag}");
    }
}

#[test]
fn the_mask_does_not_depend_on_threads_or_shape() {
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap()
        .install(|| kept(0.3, 5));
    let four = rayon::ThreadPoolBuilder::new()
        .num_threads(4)
        .build()
        .unwrap()
        .install(|| kept(0.3, 5));
    assert_eq!(one, four);
    let shaped = dropout(leaf(&vec![1.0; N], [5, 100, 100], DType::F32, false), 0.3, 5);
    assert_eq!(to_vec(shaped), one);
}

#[test]
fn backward_uses_the_same_mask() {
    for dtype in [DType::F32, DType::F64] {
        let x = leaf(&values(1000, 1), [1000], dtype, true);
        let weights = values(1000, 2);
        let y = dropout(x.clone(), 0.4, 9);
        let want: Vec<f64> = kept(0.4, 9).iter().zip(&weights).map(|(k, w)| k * w).collect();
        close(&gradient(&x, &backward(y, &weights)).unwrap(), &want, 1e-6, "gradient");
    }
}

#[test]
fn every_backend_has_the_same_mask() {
    let ones = crate::cpu::flex::tensor(vec![1.0; 2000], [2000]);
    for p in [0.1, 0.7] {
        let y = portable::<burn::backend::Flex>(ones.clone(), Mask::new(p, 11).unwrap());
        let y: Vec<f64> = crate::cpu::flex::values(&y).iter().map(|&y| f64::from(y)).collect();
        assert_eq!(y, kept(p, 11)[..2000]);
    }
}

#[test]
fn the_edges_of_the_probability() {
    assert_eq!(kept(0.0, 1), vec![1.0; N]);
    assert_eq!(kept(1.0, 1), vec![0.0; N]);
}
