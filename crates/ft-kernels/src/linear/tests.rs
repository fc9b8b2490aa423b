use super::linear;
use crate::testing::{
    backward, close, device, dot, gradient, leaf, numeric, times_transposed, to_vec, tolerance, values,
};
use burn::tensor::{DType, Tensor};

const DIMS: (usize, usize, usize) = (6, 20, 9); // rows, in, out

fn check(dtype: DType, x_tracked: bool, w_tracked: bool) {
    let (n, k, m) = DIMS;
    let (x, w, weights) = (values(n * k, 1), values(m * k, 2), values(n * m, 3));
    let (xt, wt) = (
        leaf(&x, [2, n / 2, k], dtype, x_tracked),
        leaf(&w, [m, k], dtype, w_tracked),
    );
    let y = linear(xt.clone(), wt.clone());
    assert_eq!(y.dims(), [2, n / 2, m]);
    let bound = tolerance(dtype);
    close(&to_vec(y.clone()), &times_transposed(&x, &w, k), bound, "y");
    if !(x_tracked || w_tracked) {
        return;
    }
    let grads = backward(y, &weights);
    let dx = numeric(&x, |x| dot(&times_transposed(x, &w, k), &weights));
    let dw = numeric(&w, |w| dot(&times_transposed(&x, w, k), &weights));
    for (got, want, tracked, name) in [
        (gradient(&xt, &grads), dx, x_tracked, "dx"),
        (gradient(&wt, &grads), dw, w_tracked, "dw"),
    ] {
        assert_eq!(got.is_some(), tracked, "{name} exists");
        if let Some(got) = got {
            close(&got, &want, bound.max(1e-7), name);
        }
    }
}

#[test]
fn forward_and_gradients_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        for (x, w) in [(true, true), (true, false), (false, true), (false, false)] {
            check(dtype, x, w);
        }
    }
}

#[test]
fn a_weight_in_sixteen_bits_is_widened() {
    let (n, k, m) = DIMS;
    for x_dtype in [DType::F32, DType::BF16] {
        let (x, w) = (values(n * k, 1), values(m * k, 2));
        let w = leaf(&w, [m, k], DType::BF16, true);
        let x = leaf(&x, [n, k], x_dtype, true);
        let y = linear(x.clone(), w.clone());
        assert_eq!(y.dtype(), x_dtype);
        let bound = if x_dtype == DType::F32 { 1e-5 } else { 5e-2 };
        close(
            &to_vec(y.clone()),
            &times_transposed(&to_vec(x.clone()), &to_vec(w.clone()), k),
            bound,
            "y",
        );
        let grads = backward(y, &vec![1.0; n * m]);
        assert_eq!(w.grad(&grads).unwrap().dtype(), DType::BF16);
        assert_eq!(x.grad(&grads).unwrap().dtype(), x_dtype);
    }
}

#[test]
fn views_are_read_where_they_lie() {
    let (n, k, m) = DIMS;
    let (x, w) = (values(n * k, 1), values(m * k, 2));
    let transposed: Vec<f64> = (0..k * m).map(|i| w[(i % m) * k + i / m]).collect();
    let w_view = leaf(&transposed, [k, m], DType::F32, false).swap_dims(0, 1);
    let x_view = leaf(&x, [n, k], DType::F32, false).narrow(0, 2, 3);
    let y = linear(x_view, w_view);
    close(&to_vec(y), &times_transposed(&x[2 * k..5 * k], &w, k), 1e-5, "y");
}

#[test]
fn nothing_in_gives_nothing_out() {
    let x = Tensor::<2>::zeros([0, 4], &device());
    let y = linear(x, Tensor::zeros([3, 4], &device()));
    assert_eq!(y.dims(), [0, 3]);
}

#[test]
fn results_do_not_depend_on_threads() {
    let (n, k, m) = (150, 100, 130);
    let run = || {
        let (x, w) = (
            leaf(&values(n * k, 1), [n, k], DType::F32, true),
            leaf(&values(m * k, 2), [m, k], DType::F32, true),
        );
        let y = linear(x.clone(), w.clone());
        let grads = backward(y.clone(), &values(n * m, 3));
        (to_vec(y), gradient(&x, &grads), gradient(&w, &grads))
    };
    let with = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(run)
    };
    assert_eq!(with(1), with(3));
}
