use super::frozen_lora;
use crate::frozen_matmul::tests::{CASES, packed};
use crate::testing::{backward, close, gradient, leaf, to_vec, tolerance, values};
use crate::{Output, lora_linear_for};
use burn::tensor::DType;

/// Over the unpacked matrix, `lora_linear_for` is the oracle.
#[test]
fn values_and_gradients_are_those_of_the_dense_oracle() {
    for (rows, cols, codes, nested) in CASES {
        let (packed, dense) = packed(rows, cols, codes, nested);
        let dense: Vec<f64> = dense.into_iter().map(f64::from).collect();
        for (n, dtype, dropout) in [
            (1, DType::F32, None),
            (8, DType::F32, Some((0.3, 11))),
            (23, DType::F32, None),
            (23, DType::F32, Some((0.3, 11))),
            (3, DType::F64, Some((0.3, 11))),
            (3, DType::BF16, None),
            (23, DType::F16, Some((0.3, 11))),
        ] {
            let run = |fused: bool| {
                let x = leaf(&values(n * cols, 3), [1, n, cols], dtype, true);
                let factors = if dtype == DType::F64 { dtype } else { DType::F32 };
                let a = leaf(&values(3 * cols, 5), [3, cols], factors, true);
                let b = leaf(&values(rows * 3, 6), [rows, 3], factors, true);
                let w = || leaf(&dense, [rows, cols], dtype, false);
                let (x1, a1, b1) = (x.clone(), a.clone(), b.clone());
                let y = match fused {
                    true => frozen_lora(x1, &packed, a1, b1, 0.7, dropout, Output::Read),
                    false => lora_linear_for(x1, w(), a1, b1, 0.7, dropout, Output::Read),
                };
                let grads = backward(y.clone(), &values(n * rows, 4));
                let [dx, da, db] = [gradient(&x, &grads), gradient(&a, &grads), gradient(&b, &grads)];
                [to_vec(y), dx.unwrap(), da.unwrap(), db.unwrap()]
            };
            let bound = tolerance(dtype).max(1e-5) * (rows.max(cols) as f64).sqrt();
            for ((got, want), what) in run(true).iter().zip(run(false)).zip(["y", "dx", "da", "db"]) {
                let case = format!("{what} of {rows}x{cols}, {n} rows, {dtype:?}, {dropout:?}");
                close(got, &want, bound, &case);
            }
        }
    }
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let (packed, _) = packed(4, 128, CASES[0].2, false);
    let x = leaf(&values(256, 3), [2, 128], DType::F32, false);
    let a = leaf(&values(2 * 128, 5), [2, 128], DType::F32, true);
    let b = leaf(&values(8, 6), [4, 2], DType::F32, false);
    let y = frozen_lora(x.clone(), &packed, a.clone(), b.clone(), 1.0, None, Output::Read);
    let grads = backward(y, &values(8, 4));
    assert!(gradient(&a, &grads).is_some());
    assert!(gradient(&x, &grads).is_none() && gradient(&b, &grads).is_none());
}
