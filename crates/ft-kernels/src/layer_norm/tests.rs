use super::layer_norm;
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use burn::tensor::DType;

const EPS: f64 = 1e-5;

fn oracle(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + EPS).sqrt();
        x.iter()
            .zip(w)
            .zip(b)
            .map(|((x, w), b)| (x - mean) / deviation * w + b)
            .collect::<Vec<_>>()
    };
    x.chunks(w.len()).flat_map(row).collect()
}

fn check(dtype: DType, rows: usize, d: usize, tracked: [bool; 3]) {
    let (x, w, b, weights) = (values(rows * d, 1), values(d, 2), values(d, 4), values(rows * d, 3));
    let xt = leaf(&x, [rows, d], dtype, tracked[0]);
    let (wt, bt) = (leaf(&w, [d], dtype, tracked[1]), leaf(&b, [d], dtype, tracked[2]));
    let y = layer_norm(xt.clone(), wt.clone(), bt.clone(), EPS);
    let bound = tolerance(dtype);
    close(&to_vec(y.clone()), &oracle(&x, &w, &b), bound, "y");
    let grads = backward(y, &weights);
    let got = [gradient(&xt, &grads), gradient(&wt, &grads), gradient(&bt, &grads)];
    let want = [
        numeric(&x, |x| dot(&oracle(x, &w, &b), &weights)),
        numeric(&w, |w| dot(&oracle(&x, w, &b), &weights)),
        numeric(&b, |b| dot(&oracle(&x, &w, b), &weights)),
    ];
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.is_some(), tracked[i], "gradient {i}");
        if let Some(got) = got {
            close(got, want, bound.max(1e-7) * 4.0, &format!("gradient {i}"));
        }
    }
}

#[test]
fn forward_and_gradients_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        for tracked in [
            [true; 3],
            [true, false, false],
            [false, true, false],
            [false, false, true],
        ] {
            check(dtype, 4, 37, tracked);
        }
    }
}

#[test]
fn sums_over_several_blocks_of_rows() {
    check(DType::F32, 300, 70, [false, true, true]);
}
