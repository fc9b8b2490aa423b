//! 8-bit AdamW against bitsandbytes' own trajectory, against its rule in f64, and its memory.

use burn::optim::Optimizer;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::Values;
use crate::dynamic_map::BLOCK;
use crate::optimizers::State8bit;
use crate::{AdamW, AdamW8bit};
use ft_quant::{SIGNED, UNSIGNED};

const GOLDEN: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/bnb/adamw8bit_5steps.safetensors"
));

const RULE: AdamW8bit = AdamW8bit {
    rule: AdamW {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
    },
    keep_f32: false,
};

fn golden(name: &str) -> Vec<f32> {
    let file = safetensors::SafeTensors::deserialize(GOLDEN).unwrap();
    let bytes = file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
    bytes.into_iter().map(f32::from_le_bytes).collect()
}

fn golden_codes(name: &str) -> Vec<u8> {
    let file = safetensors::SafeTensors::deserialize(GOLDEN).unwrap();
    file.tensor(name).unwrap().data().to_vec()
}

/// What is left of a trajectory: values, codes and scales of both moments.
struct Reached {
    values: Vec<f32>,
    codes: [Vec<u8>; 2],
    scales: [Vec<f32>; 2],
    bytes: usize,
}

/// f64 parameters take the path made of Burn operations, f32 ones the fused CPU pass.
fn run(start: &[f32], grads: &[Vec<f32>], lr: f64, dtype: DType) -> Reached {
    run_on(&Device::flex(), start, grads, lr, dtype)
}

fn run_on(device: &Device, start: &[f32], grads: &[Vec<f32>], lr: f64, dtype: DType) -> Reached {
    let tensor = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
        Tensor::<1>::from_data(data, (device, dtype))
    };
    let (mut param, mut state) = (tensor(start), None);
    for grad in grads {
        (param, state) = RULE.step(lr, param, tensor(grad), state);
    }
    let Some(State8bit::Coded(coded)) = state else {
        panic!("large tensors are coded")
    };
    let floats = |t: Tensor<1>| t.into_data().convert::<f32>().try_to_vec::<f32>().unwrap();
    let bytes = coded.bytes();
    let (codes, scales) = coded.parts();
    Reached {
        values: floats(param),
        codes: codes.map(|codes| codes.bytes(start.len())),
        scales: scales.map(floats),
        bytes,
    }
}

/// The rule of bitsandbytes in f64, written down once more.
fn oracle(start: &[f32], grads: &[Vec<f32>], lr: f64) -> Vec<f64> {
    let (beta1, beta2, eps, decay) = (0.9, 0.999, 1e-8, 0.01);
    let mut p: Vec<f64> = start.iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = (vec![0f64; p.len()], vec![0f64; p.len()]);
    for (t, grad) in grads.iter().enumerate() {
        let (c1, c2) = (
            1.0 - f64::powi(beta1, t as i32 + 1),
            (1.0 - f64::powi(beta2, t as i32 + 1)).sqrt(),
        );
        for i in 0..p.len() {
            let g = f64::from(grad[i]);
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            p[i] -= lr * c2 / c1 * m[i] / (v[i].sqrt() + c2 * eps);
            p[i] *= 1.0 - lr * decay;
        }
        for block in (0..p.len()).step_by(BLOCK) {
            let range = block..(block + BLOCK).min(p.len());
            requantize(&mut m[range.clone()], &SIGNED.values);
            requantize(&mut v[range], &UNSIGNED.values);
        }
    }
    p
}

/// Every value becomes what its code stands for.
fn requantize(block: &mut [f64], map: &[f32; 256]) {
    let largest = block.iter().fold(0f64, |a, b| a.max(b.abs()));
    for value in block.iter_mut().filter(|_| largest > 0.0) {
        let share = *value / largest;
        let distance = |v: &f32| (f64::from(*v) - share).abs();
        let mut best = (0..256)
            .min_by(|a, b| distance(&map[*a]).total_cmp(&distance(&map[*b])))
            .unwrap();
        if map[best].is_sign_negative() != (share < 0.0) {
            best = if share > 0.0 { best + 1 } else { best - 1 };
        }
        *value = f64::from(map[best]) * largest;
    }
}

fn furthest(a: &[f32], b: impl IntoIterator<Item = f64>) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn five_steps_of_bitsandbytes() {
    let grads: Vec<_> = (0..5).map(|i| golden(&format!("g{i}"))).collect();
    for dtype in [DType::F32, DType::F64] {
        let ours = run(&golden("p0"), &grads, 1e-3, dtype);
        let theirs = golden("p5").into_iter().map(f64::from);
        let distance = furthest(&ours.values, theirs);
        assert!(distance < 3e-4, "{dtype:?}: {distance}");
        // Their CPU quantizer takes codes from an approximate table, five times in a row.
        for (name, codes) in ["state1", "state2"].iter().zip(&ours.codes) {
            let theirs = golden_codes(name);
            let far = codes.iter().zip(&theirs).filter(|(a, b)| a.abs_diff(**b) > 8).count();
            assert!(far * 200 < codes.len(), "{dtype:?} {name}: {far} codes are far off");
        }
        for (name, scales) in ["absmax1", "absmax2"].iter().zip(&ours.scales) {
            for (ours, theirs) in scales.iter().zip(golden(name)) {
                assert!(
                    (ours / theirs - 1.0).abs() < 0.02,
                    "{dtype:?} {name}: {ours}, not {theirs}"
                );
            }
        }
    }
}

#[test]
fn the_rule_is_exact() {
    let grads: Vec<_> = (0..5).map(|i| golden(&format!("g{i}"))).collect();
    let expected = oracle(&golden("p0"), &grads, 1e-3);
    for dtype in [DType::F32, DType::F64] {
        let ours = run(&golden("p0"), &grads, 1e-3, dtype).values;
        // A number right between two codes may fall on either side of f32's rounding.
        let apart = ours
            .iter()
            .zip(&expected)
            .filter(|(a, b)| (f64::from(**a) - **b).abs() > 2e-6);
        assert!(
            apart.count() <= 4,
            "{dtype:?}: furthest {}",
            furthest(&ours, expected.iter().copied())
        );
        assert!(furthest(&ours, expected.iter().copied()) < 1e-4);
    }
}

/// A length that is no whole number of blocks, and gradients that are no numbers.
#[test]
fn both_paths_agree_on_every_code() {
    let (start, grads) = odd();
    let (fused, composed) = (
        run(&start, &grads, 1e-2, DType::F32),
        run(&start, &grads, 1e-2, DType::F64),
    );
    agree(&fused, &composed);
}

/// The kernel, on the first Vulkan device of the machine.
#[cfg(feature = "vulkan")]
#[test]
fn cards_agree_on_every_code() {
    let (start, grads) = odd();
    let got = run_on(&super::card(), &start, &grads, 1e-2, DType::F32);
    agree(&got, &run(&start, &grads, 1e-2, DType::F32));
}

fn odd() -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut values = Values(3);
    let start = values.list(5 * BLOCK * 4 + 77);
    let mut grads: Vec<_> = (0..4).map(|_| values.list(start.len())).collect();
    grads[2][5] = f32::NAN;
    grads[2][700] = f32::INFINITY;
    grads[3][BLOCK..2 * BLOCK].fill(0.0);
    (start, grads)
}

fn agree(got: &Reached, want: &Reached) {
    assert!(furthest(&got.values, want.values.iter().map(|v| f64::from(*v))) < 1e-6);
    for (a, b) in got.codes.iter().zip(&want.codes) {
        let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(differ <= 2, "{differ} codes");
    }
    assert!(got.values.iter().all(|v| v.is_finite()));
}

#[test]
fn a_gradient_that_is_no_number_leaves_the_parameter_and_clears_its_moments() {
    let start = Values(3).list(4096);
    let mut grad = Values(4).list(4096);
    grad[9] = f32::NAN;
    for dtype in [DType::F32, DType::F64] {
        let reached = run(&start, &[Values(5).list(4096), grad.clone()], 1e-2, dtype);
        let before = run(&start, &[Values(5).list(4096)], 1e-2, dtype);
        assert_eq!(reached.values[9], before.values[9]);
        assert_eq!([reached.codes[0][9], reached.codes[1][9]], [SIGNED.zero, UNSIGNED.zero]);
        assert_ne!(reached.values[10], before.values[10]);
    }
}

#[test]
fn a_negative_moment_never_becomes_zero() {
    let start = vec![0f32; 4096];
    let mut grad = vec![1f32; 4096];
    grad[1] = -1e-9;
    grad[2] = 1e-9;
    for dtype in [DType::F32, DType::F64] {
        let codes = &run(&start, std::slice::from_ref(&grad), 1e-2, dtype).codes[0];
        assert_eq!(codes[..3], [255, SIGNED.zero - 1, SIGNED.zero]);
    }
}

/// At rest: one byte per moment, four more for every 256 of them; small tensors stay in f32.
#[test]
fn states_are_a_quarter_of_f32() {
    let numbers = 64 * 1000;
    let reached = run(&Values(3).list(numbers), &[Values(4).list(numbers)], 1e-2, DType::F32);
    assert_eq!(reached.bytes, 2 * (numbers + 4 * numbers / BLOCK));
    assert!(reached.bytes * 39 < 10 * 2 * 4 * numbers, "{} bytes", reached.bytes);

    let table = AdamW8bit { keep_f32: true, ..RULE };
    for (rule, numbers) in [(RULE, 4095), (table, numbers)] {
        let param = Tensor::<1>::zeros([numbers], &Device::flex());
        let (_, state) = rule.step(1e-2, param.clone(), param, None);
        assert!(matches!(state, Some(State8bit::Full(_))));
    }
}
