//! One update of AdamW; the one with codes is compared with the CPU's in `ft-optim`.
use super::{compare, floats, gpu, rounded, tensor, tensor_of, types};
use crate::testing::values;
use crate::{AdamWStep, adamw};
use burn::tensor::{Device, FloatDType};

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
