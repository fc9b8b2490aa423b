use super::rms_norm;
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use burn::tensor::DType;

const EPS: f64 = 1e-5;

fn oracle(x: &[f64], w: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| {
        let r = (dot(x, x) / x.len() as f64 + EPS).sqrt();
        x.iter().zip(w).map(|(x, w)| x / r * w).collect::<Vec<_>>()
    };
    x.chunks(w.len()).flat_map(row).collect()
}

fn check(dtype: DType, rows: usize, d: usize, x_tracked: bool, w_tracked: bool) {
    let (x, w, weights) = (values(rows * d, 1), values(d, 2), values(rows * d, 3));
    let (xt, wt) = (
        leaf(&x, [1, rows, d], dtype, x_tracked),
        leaf(&w, [d], dtype, w_tracked),
    );
    let y = rms_norm(xt.clone(), wt.clone(), EPS);
    let bound = tolerance(dtype);
    close(&to_vec(y.clone()), &oracle(&x, &w), bound, "y");
    let grads = backward(y, &weights);
    let (got_x, got_w) = (gradient(&xt, &grads), gradient(&wt, &grads));
    assert_eq!((got_x.is_some(), got_w.is_some()), (x_tracked, w_tracked));
    if let Some(got) = got_x {
        close(
            &got,
            &numeric(&x, |x| dot(&oracle(x, &w), &weights)),
            bound.max(1e-7),
            "to x",
        );
    }
    if let Some(got) = got_w {
        close(
            &got,
            &numeric(&w, |w| dot(&oracle(&x, w), &weights)),
            bound.max(1e-7) * 4.0,
            "to weight",
        );
    }
}

#[test]
fn forward_and_gradients_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        for (x, w) in [(true, true), (true, false), (false, true)] {
            check(dtype, 4, 37, x, w);
        }
    }
}

#[test]
fn sums_over_several_blocks_of_rows() {
    check(DType::F32, 300, 70, false, true);
}

#[test]
fn a_sixteen_bit_weight_beside_f32_activations() {
    let (x, w) = (values(20, 1), leaf(&values(10, 2), [10], DType::BF16, true));
    let y = rms_norm(leaf(&x, [2, 10], DType::F32, true), w.clone(), EPS);
    assert_eq!(y.dtype(), DType::F32);
    close(&to_vec(y.clone()), &oracle(&x, &to_vec(w.clone())), 1e-5, "y");
    assert_eq!(w.grad(&backward(y, &values(20, 3))).unwrap().dtype(), DType::BF16);
}
