use super::gelu_tanh;
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use burn::tensor::DType;

fn oracle(x: &[f64]) -> Vec<f64> {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    x.iter()
        .map(|x| 0.5 * x * (1.0 + (c * (x + 0.044715 * x * x * x)).tanh()))
        .collect()
}

#[test]
fn forward_and_gradient_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        let x: Vec<f64> = values(50, 1).iter().map(|x| 6.0 * x).collect();
        let weights = values(50, 2);
        let leaf = leaf(&x, [2, 25], dtype, true);
        let y = gelu_tanh(leaf.clone());
        close(&to_vec(y.clone()), &oracle(&x), tolerance(dtype), "y");
        let got = gradient(&leaf, &backward(y, &weights)).unwrap();
        close(
            &got,
            &numeric(&x, |x| dot(&oracle(x), &weights)),
            tolerance(dtype).max(1e-7),
            "gradient",
        );
    }
}

#[test]
fn the_input_survives() {
    let x = leaf(&values(30, 1), [30], DType::F32, false);
    let before = to_vec(x.clone());
    gelu_tanh(x.clone());
    assert_eq!(to_vec(x), before);
}
