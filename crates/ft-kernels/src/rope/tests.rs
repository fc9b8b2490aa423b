use super::rope;
use crate::testing::{backward, close, dot, gradient, leaf, numeric, to_vec, tolerance, values};
use burn::tensor::DType;

const B: usize = 2;
const S: usize = 5;
const H: usize = 3;
const D: usize = 8;

/// Angles `[tables, s, d/2]`.
fn angles(tables: usize) -> Vec<f64> {
    values(tables * S * D / 2, 7).iter().map(|x| 3.0 * x).collect()
}

fn oracle(x: &[f64], angles: &[f64], tables: usize) -> Vec<f64> {
    let mut out = x.to_vec();
    for (row, x) in out.chunks_mut(D).enumerate() {
        let (b, s) = (row / (S * H), row / H % S);
        for i in 0..D / 2 {
            let angle = angles[((if tables == 1 { 0 } else { b }) * S + s) * D / 2 + i];
            let (l, r) = (x[i], x[i + D / 2]);
            x[i] = l * angle.cos() - r * angle.sin();
            x[i + D / 2] = r * angle.cos() + l * angle.sin();
        }
    }
    out
}

#[test]
fn forward_and_gradient_equal_the_oracle() {
    for dtype in [DType::F32, DType::F64] {
        for tables in [1, B] {
            let angles = angles(tables);
            let table = |f: fn(f64) -> f64| {
                let values: Vec<f64> = angles.iter().map(|&a| f(a)).collect();
                leaf(&values, [tables, S, D / 2], DType::F32, false)
            };
            let (x, weights) = (values(B * S * H * D, 1), values(B * S * H * D, 2));
            let leaf = leaf(&x, [B, S, H, D], dtype, true);
            let y = rope(leaf.clone(), table(f64::cos), table(f64::sin));
            // The tables are f32 in both cases.
            close(&to_vec(y.clone()), &oracle(&x, &angles, tables), 1e-6, "y");
            let got = gradient(&leaf, &backward(y, &weights)).unwrap();
            let want = numeric(&x, |x| dot(&oracle(x, &angles, tables), &weights));
            close(&got, &want, tolerance(dtype).max(1e-6), "gradient");
        }
    }
}

#[test]
fn a_shared_tensor_is_not_overwritten() {
    let x = leaf(&values(B * S * H * D, 1), [B, S, H, D], DType::F32, false);
    let before = to_vec(x.clone());
    let table = |seed| leaf(&values(S * D / 2, seed), [1, S, D / 2], DType::F32, false);
    let rotated = rope(x.clone(), table(1), table(2));
    assert_eq!(to_vec(x.clone()), before);
    let own = rope(x.mul_scalar(1.0), table(1), table(2));
    assert_eq!(to_vec(own), to_vec(rotated));
}

#[test]
fn views_and_empty_batches() {
    let x = leaf(&values(B * S * H * D, 1), [B, S, H, D], DType::F32, false);
    let angles = angles(1);
    let table = |f: fn(f64) -> f64, steps: usize| {
        let values: Vec<f64> = angles.iter().map(|&a| f(a)).collect();
        leaf(&values, [1, S, D / 2], DType::F32, false).narrow(1, 0, steps)
    };
    let whole = to_vec(rope(x.clone(), table(f64::cos, S), table(f64::sin, S)).narrow(1, 0, 3));
    let part = to_vec(rope(x.clone().narrow(1, 0, 3), table(f64::cos, 3), table(f64::sin, 3)));
    assert_eq!(whole, part);
    let none = rope(
        leaf(&[], [0, S, H, D], DType::F32, false),
        table(f64::cos, S),
        table(f64::sin, S),
    );
    assert_eq!(none.dims(), [0, S, H, D]);
}
