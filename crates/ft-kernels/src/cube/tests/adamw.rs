//! One update of AdamW; the one with codes is compared with the CPU's in `ft-optim`.
use super::{compare, floats, gpu, rounded, tensor, tensor_of, types};
use crate::testing::values;
use crate::{AdamWStep, ManyAdamW, adamw};
use burn::tensor::{Device, FloatDType, Tensor};

const STEP: AdamWStep = AdamWStep {
    keep: 0.99,
    toward: 0.1,
    beta2: 0.999,
    step_size: 0.02,
    lift: 20.0,
    eps: 1e-6,
};

#[test]
fn updates_are_those_of_the_cpu() {
    for (dtype, bound) in types() {
        for [n, d] in [[1, 1], [3, 33], [64, 100]] {
            let run = |device: &Device, dtype: FloatDType| {
                let device = &device.clone().inner();
                let of = |seed, dtype| tensor_of(device, &rounded(values(n * d, seed)), [n, d], dtype);
                let (param, grad, m) = (of(1, dtype), of(2, dtype), of(3, FloatDType::F32));
                let v = of(4, FloatDType::F32).abs();
                let (param, [m, v]) = adamw(param, grad, [m, v], STEP);
                vec![param.into_data(), m.into_data(), v.into_data()]
            };
            compare(run, dtype, bound, &["p", "m", "v"], &format!("{n} x {d}"));
        }
    }
}

#[test]
fn what_others_hold_stays_as_it_is() {
    let device = gpu().inner();
    let of = |seed| tensor(&device, &values(40, seed), [40]);
    let (param, m) = (of(1), of(3));
    let _ = adamw(param.clone(), of(2), [m.clone(), of(4).abs()], STEP);
    assert_eq!(floats(param), values(40, 1));
    assert_eq!(floats(m), values(40, 3));
}

/// More than one launch takes, with two learning rates, of odd and even lengths, and gradients that are views.
#[test]
fn many_are_updated_as_each() {
    for (dtype, _) in types() {
        let device = gpu().inner();
        let shapes = [[8, 16], [3, 11], [1, 1], [300, 40], [64, 64]].into_iter();
        let shapes: Vec<_> = shapes.chain([[40, 8]; 40]).collect();
        let row = |i: usize| {
            let [n, d] = shapes[i];
            let of =
                |seed: u64, dims, dtype| tensor_of(&device, &rounded(values(n * d, 5 * i as u64 + seed)), dims, dtype);
            let grad = match i % 2 {
                0 => of(2, [n, d], dtype),
                _ => of(2, [d, n], dtype).transpose(),
            };
            let moments = [of(3, [n, d], FloatDType::F32), of(4, [n, d], FloatDType::F32).abs()];
            let step = match i % 3 {
                0 => AdamWStep {
                    step_size: 0.04,
                    ..STEP
                },
                _ => STEP,
            };
            (of(1, [n, d], dtype), grad, moments, step)
        };
        let mut many = ManyAdamW::default();
        for i in 0..shapes.len() {
            let (param, grad, moments, step) = row(i);
            assert!(many.takes(param.dtype(), &grad));
            many.push(param, grad, moments, step);
        }
        let mut updated = many.update();
        for (i, shape) in shapes.iter().enumerate() {
            let (param, grad, moments, step) = row(i);
            let (want, want_moments) = adamw(param, grad, moments, step);
            let (got, got_moments) = updated.take::<2>().unwrap();
            assert_eq!(got.dims(), *shape);
            let all = |x: Tensor<2>, [m, v]: [Tensor<2>; 2]| [x, m, v].map(floats);
            let (got, want) = (all(got, got_moments), all(want, want_moments));
            assert!(
                super::card().is_some_and(|card| card == "null") || got == want,
                "{i}, {dtype:?}"
            );
        }
        assert!(updated.take::<2>().is_none());
    }
}

#[test]
fn what_lies_elsewhere_is_not_taken() {
    let many = ManyAdamW::default();
    let f32 = burn::tensor::DType::F32;
    assert!(!many.takes(f32, &tensor(&Device::flex(), &[1.0], [1])));
    assert!(!many.takes(burn::tensor::DType::F64, &tensor(&gpu().inner(), &[1.0], [1])));
    assert!(many.takes(f32, &tensor(&gpu().inner(), &[1.0], [1])));
}
