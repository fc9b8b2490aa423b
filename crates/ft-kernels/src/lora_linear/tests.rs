use super::{lora_linear, lora_linear_for};
use crate::testing::{backward, close, dot, gradient, leaf, numeric, times_transposed, to_vec, tolerance, values};
use crate::{Output, dropout};
use burn::tensor::{DType, FloatDType};

const SCALE: f64 = 0.5;

struct Case {
    n: usize,
    k: usize,
    m: usize,
    r: usize,
}

impl Case {
    fn forward(&self, x: &[f64], w: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
        let base = times_transposed(x, w, self.k);
        let low = times_transposed(&times_transposed(x, a, self.k), b, self.r);
        base.iter().zip(low).map(|(y, l)| y + SCALE * l).collect()
    }

    fn check(&self, dtype: DType, tracked: [bool; 4]) {
        let Case { n, k, m, r } = *self;
        let (x, w, a, b) = (values(n * k, 1), values(m * k, 2), values(r * k, 3), values(m * r, 4));
        let weights = values(n * m, 5);
        let xt = leaf(&x, [1, n, k], dtype, tracked[0]);
        let wt = leaf(&w, [m, k], dtype, tracked[1]);
        let at = leaf(&a, [r, k], dtype, tracked[2]);
        let bt = leaf(&b, [m, r], dtype, tracked[3]);
        let y = lora_linear(xt.clone(), wt.clone(), at.clone(), bt.clone(), SCALE);
        let bound = tolerance(dtype);
        close(&to_vec(y.clone()), &self.forward(&x, &w, &a, &b), bound, "y");
        if !tracked.contains(&true) {
            return;
        }
        let grads = backward(y, &weights);
        let want = [
            numeric(&x, |x| dot(&self.forward(x, &w, &a, &b), &weights)),
            numeric(&w, |w| dot(&self.forward(&x, w, &a, &b), &weights)),
            numeric(&a, |a| dot(&self.forward(&x, &w, a, &b), &weights)),
            numeric(&b, |b| dot(&self.forward(&x, &w, &a, b), &weights)),
        ];
        let got = [
            gradient(&xt, &grads),
            gradient(&wt, &grads),
            gradient(&at, &grads),
            gradient(&bt, &grads),
        ];
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.is_some(), tracked[i], "gradient {i} of {tracked:?}");
            if let Some(got) = got {
                close(got, want, bound.max(1e-7), &format!("gradient {i} of {tracked:?}"));
            }
        }
    }
}

#[test]
fn forward_and_gradients_equal_the_oracle_for_every_choice_of_leaves() {
    for dtype in [DType::F32, DType::F64] {
        for bits in 0..16 {
            Case {
                n: 5,
                k: 18,
                m: 7,
                r: 3,
            }
            .check(dtype, std::array::from_fn(|i| bits >> i & 1 == 1));
        }
    }
}

#[test]
fn more_rows_than_a_register_tile() {
    Case {
        n: 29,
        k: 34,
        m: 40,
        r: 4,
    }
    .check(DType::F32, [true, false, true, true]);
}

#[test]
fn a_frozen_weight_may_be_bf16() {
    let (n, k, m, r) = (4, 16, 6, 2);
    let w = leaf(&values(m * k, 2), [m, k], DType::BF16, false);
    let (x, a, b) = (values(n * k, 1), values(r * k, 3), values(m * r, 4));
    let a_leaf = leaf(&a, [r, k], DType::F32, true);
    let y = lora_linear(
        leaf(&x, [n, k], DType::F32, true),
        w.clone(),
        a_leaf.clone(),
        leaf(&b, [m, r], DType::F32, true),
        SCALE,
    );
    close(
        &to_vec(y.clone()),
        &Case { n, k, m, r }.forward(&x, &to_vec(w), &a, &b),
        1e-5,
        "y",
    );
    assert_eq!(
        a_leaf.grad(&backward(y, &vec![1.0; n * m])).unwrap().dtype(),
        DType::F32
    );
}

/// Dropout is linear in its input once the mask is fixed, so the composition is the oracle.
#[test]
fn dropout_before_the_update_equals_the_composition() {
    let (n, k, m, r, p, seed) = (6, 20, 7, 3, 0.4, 11);
    for dtype in [DType::F32, DType::F64] {
        let run = |fused: bool| {
            let x = leaf(&values(n * k, 1), [n, k], dtype, true);
            let w = leaf(&values(m * k, 2), [m, k], dtype, true);
            let a = leaf(&values(r * k, 3), [r, k], dtype, true);
            let b = leaf(&values(m * r, 4), [m, r], dtype, true);
            let y = if fused {
                let drop = Some((p, seed));
                lora_linear_for(x.clone(), w.clone(), a.clone(), b.clone(), SCALE, drop, Output::Read)
            } else {
                let low = crate::linear(crate::linear(dropout(x.clone(), p, seed), a.clone()), b.clone());
                crate::linear(x.clone(), w.clone()) + low.mul_scalar(SCALE)
            };
            let grads = backward(y.clone(), &values(n * m, 5));
            let leaves = [x, w, a, b].map(|leaf| gradient(&leaf, &grads).unwrap());
            (to_vec(y), leaves)
        };
        let ((y, gradients), (want, wanted)) = (run(true), run(false));
        close(&y, &want, tolerance(dtype), "y");
        for (i, (got, want)) in gradients.iter().zip(&wanted).enumerate() {
            close(got, want, tolerance(dtype), &format!("gradient {i}"));
        }
    }
}

/// Activations of 16 bits: the update is that of their f32 copy, and joins the base in 16 bits.
#[test]
fn the_update_of_sixteen_bit_activations_is_computed_in_f32() {
    let (n, k, m, r, seed) = (6, 20, 7, 3, 11);
    for (dtype, narrow) in [(DType::BF16, FloatDType::BF16), (DType::F16, FloatDType::F16)] {
        for p in [0.0, 0.4] {
            let run = |fused: bool| {
                let x = leaf(&values(n * k, 1), [n, k], dtype, true);
                let w = leaf(&values(m * k, 2), [m, k], DType::F32, false);
                let a = leaf(&values(r * k, 3), [r, k], DType::F32, true);
                let b = leaf(&values(m * r, 4), [m, r], DType::F32, true);
                let y = if fused {
                    let drop = (p > 0.0).then_some((p, seed));
                    lora_linear_for(x.clone(), w, a.clone(), b.clone(), SCALE, drop, Output::Read)
                } else {
                    let wide = dropout(x.clone().cast(FloatDType::F32), p, seed);
                    let low = crate::linear(crate::linear(wide, a.clone()), b.clone()).mul_scalar(SCALE);
                    crate::linear(x.clone(), w) + low.cast(narrow)
                };
                assert_eq!(y.dtype(), dtype);
                let grads = backward(y.clone(), &values(n * m, 5));
                let [da, db] = [a.grad(&grads).unwrap(), b.grad(&grads).unwrap()];
                assert!(da.dtype() == DType::F32 && db.dtype() == DType::F32);
                (to_vec(y), gradient(&x, &grads).unwrap(), [to_vec(da), to_vec(db)])
            };
            let ((y, dx, factors), (want, wanted_dx, wanted)) = (run(true), run(false));
            // The same roundings to 16 bits, in the same places.
            close(&y, &want, 1e-6, "y");
            close(&dx, &wanted_dx, tolerance(dtype), "dx");
            for (got, want) in factors.iter().zip(&wanted) {
                close(got, want, 1e-5, "factor");
            }
        }
    }
}
