use super::{Clamp, clamped_swiglu};
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use burn::tensor::{DType, Tensor};

const CLAMP: Clamp = Clamp {
    alpha: 1.702,
    limit: 0.5,
};

fn oracle(x: &[f64]) -> Vec<f64> {
    let one = |pair: &[f64]| {
        let (gate, up) = (pair[0].min(CLAMP.limit), pair[1].clamp(-CLAMP.limit, CLAMP.limit));
        (up + 1.0) * gate / (1.0 + (-CLAMP.alpha * gate).exp())
    };
    x.chunks(2).map(one).collect()
}

#[test]
fn value_and_gradient_equal_the_oracle() {
    let (x, weights) = (values(3 * 40, 1), values(60, 2));
    assert!(x.chunks(2).any(|pair| pair[0] > 0.5) && x.chunks(2).any(|pair| pair[1] < -0.5));
    for dtype in [DType::F32, DType::F64] {
        let input: Tensor<2> = leaf(&x, [3, 40], dtype, true);
        let y = clamped_swiglu(input.clone(), CLAMP);
        assert_eq!(y.dims(), [3, 20]);
        close(&to_vec(y.clone()), &oracle(&x), tolerance(dtype), "y");
        let got = gradient(&input, &backward(y, &weights)).unwrap();
        let want = numeric(&x, |x| dot(&oracle(x), &weights));
        close(&got, &want, tolerance(dtype).max(1e-7), "gradient");
    }
}

#[test]
fn sixteen_bits_and_no_rows() {
    let x = values(40, 1);
    let y = clamped_swiglu(leaf::<2>(&x, [1, 40], DType::BF16, false), CLAMP);
    assert_eq!(y.dtype(), DType::BF16);
    close(&to_vec(y), &oracle(&x), 2e-2, "y");
    assert_eq!(
        clamped_swiglu(leaf::<2>(&[], [0, 40], DType::F32, false), CLAMP).dims(),
        [0, 20]
    );
}
