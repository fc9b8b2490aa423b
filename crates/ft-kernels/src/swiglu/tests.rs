use super::swiglu;
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use burn::tensor::DType;

fn oracle(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

#[test]
fn forward_and_gradients_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        for (gate_tracked, up_tracked) in [(true, true), (true, false), (false, true)] {
            let gate: Vec<f64> = values(39, 1).iter().map(|x| 8.0 * x).collect();
            let (up, weights) = (values(39, 2), values(39, 3));
            let (g, u) = (
                leaf(&gate, [3, 13], dtype, gate_tracked),
                leaf(&up, [3, 13], dtype, up_tracked),
            );
            let y = swiglu(g.clone(), u.clone());
            let bound = tolerance(dtype);
            close(&to_vec(y.clone()), &oracle(&gate, &up), bound, "y");
            let grads = backward(y, &weights);
            let to_gate = numeric(&gate, |g| dot(&oracle(g, &up), &weights));
            let to_up = numeric(&up, |u| dot(&oracle(&gate, u), &weights));
            for (leaf, want, tracked) in [(&g, to_gate, gate_tracked), (&u, to_up, up_tracked)] {
                let got = gradient(leaf, &grads);
                assert_eq!(got.is_some(), tracked);
                if let Some(got) = got {
                    close(&got, &want, bound.max(1e-7), "gradient");
                }
            }
        }
    }
}

#[test]
fn more_elements_than_a_block_and_extreme_gates() {
    let n = 40_000;
    let gate: Vec<f64> = values(n, 1).iter().map(|x| 300.0 * x).collect();
    let up = values(n, 2);
    let y = swiglu(leaf(&gate, [n], DType::F32, false), leaf(&up, [n], DType::F32, false));
    close(&to_vec(y), &oracle(&gate, &up), 1e-5, "y");
}

#[test]
fn sixteen_bits_go_through_f32() {
    let (gate, up) = (values(20, 1), values(20, 2));
    let y = swiglu(
        leaf(&gate, [20], DType::BF16, false),
        leaf(&up, [20], DType::BF16, false),
    );
    assert_eq!(y.dtype(), DType::BF16);
    close(&to_vec(y), &oracle(&gate, &up), 1e-2, "y");
}
