use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Device};
use serde_json::Value;

use super::{Net, Pair, floats};
use crate::{clip_grad_norm, named_parameters, scale_and_clip, scale_grads};

const GOLDEN: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/optim/clip.json"
));

fn values(pair: &Pair, grads: &GradientsParams) -> Vec<f32> {
    let weight = grads.get::<2>(pair.weight.id).unwrap().to_data().convert::<f32>();
    let norm = grads.get::<1>(pair.norm.weight.id).unwrap().to_data().convert::<f32>();
    [weight.try_to_vec::<f32>().unwrap(), norm.try_to_vec::<f32>().unwrap()].concat()
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (got - expected).abs() <= 1e-6 * expected.abs(),
            "{got}, expected {expected}"
        );
    }
}

/// f64 gradients take the path of other devices, where norm and coefficient stay tensors.
#[test]
fn clipping_is_torchs() {
    let cases: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
    for (case, dtype) in cases.iter().flat_map(|case| [(case, DType::F32), (case, DType::F64)]) {
        let pair = Pair::new(&case["grads"], &Device::flex().autodiff(), dtype);
        let max_norm = case["max_norm"].as_f64().unwrap();
        let expected_norm = case["norm"].as_f64().unwrap();
        let expected = [floats(&case["clipped"]["weight"]), floats(&case["clipped"]["norm"])].concat();

        let (clipped, norm) = clip_grad_norm(&pair, pair.grads(&case["grads"]), max_norm);
        assert!(
            (norm.value() / expected_norm - 1.0).abs() < 1e-6,
            "{} is not {expected_norm}",
            norm.value()
        );
        assert_close(&values(&pair, &clipped), &expected);

        // Scaled first, in one pass: sums of 4 "tokens" turned into means.
        let sums = scale_grads(&pair, pair.grads(&case["grads"]), 4.0);
        let (clipped, norm) = scale_and_clip(&pair, sums, 0.25, Some(max_norm));
        assert!((norm.value() / expected_norm - 1.0).abs() < 1e-6);
        assert_close(&values(&pair, &clipped), &expected);
    }
}

/// Norm and coefficient by the kernels, on the first Vulkan device of the machine.
#[cfg(feature = "vulkan")]
#[test]
fn clipping_on_cards_is_torchs() {
    let cases: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
    let card = super::card();
    for case in &cases {
        let pair = Pair::new(&case["grads"], &card.clone().autodiff(), DType::F32);
        let (expected_norm, max_norm) = (case["norm"].as_f64().unwrap(), case["max_norm"].as_f64().unwrap());
        let expected = [floats(&case["clipped"]["weight"]), floats(&case["clipped"]["norm"])].concat();
        let (clipped, norm) = clip_grad_norm(&pair, pair.grads_on(&case["grads"], &card), max_norm);
        assert!(norm.on_device().is_some());
        let found = norm.value();
        assert!(
            (found / expected_norm - 1.0).abs() < 1e-6,
            "{found} is not {expected_norm}"
        );
        assert_close(&values(&pair, &clipped), &expected);
    }
}

#[test]
fn without_a_limit_only_the_scale_applies() {
    let case = &serde_json::from_str::<Vec<Value>>(GOLDEN).unwrap()[3];
    for dtype in [DType::F32, DType::F64] {
        let pair = Pair::new(&case["grads"], &Device::flex().autodiff(), dtype);
        let (grads, norm) = scale_and_clip(&pair, pair.grads(&case["grads"]), 0.5, None);
        assert!((norm.value() / case["norm"].as_f64().unwrap() - 0.5).abs() < 1e-6);
        let half: Vec<f32> = values(&pair, &pair.grads(&case["grads"]))
            .iter()
            .map(|v| v * 0.5)
            .collect();
        assert_close(&values(&pair, &grads), &half);
    }
}

#[test]
fn bad_gradients_stay_visible() {
    let case: Value = serde_json::from_str::<Vec<Value>>(GOLDEN).unwrap()[0].clone();
    for (bad, dtype) in [
        (f32::NAN, DType::F32),
        (f32::INFINITY, DType::F32),
        (f32::NAN, DType::F64),
    ] {
        let pair = Pair::new(&case["grads"], &Device::flex().autodiff(), dtype);
        let mut grads = pair.grads(&case["grads"]);
        let norm = grads.remove::<1>(pair.norm.weight.id).unwrap();
        grads.register(pair.norm.weight.id, norm.mul_scalar(bad));
        let (grads, norm) = clip_grad_norm(&pair, grads, 1.0);
        assert!(!norm.value().is_finite());
        assert!(values(&pair, &grads).iter().any(|v| v.is_nan()));
    }
}

#[test]
fn a_module_without_gradients_has_norm_zero() {
    let net = Net::new(1, &Device::flex().autodiff());
    let (grads, norm) = clip_grad_norm(&net, GradientsParams::new(), 1.0);
    assert!(grads.is_empty());
    assert_eq!(norm.value(), 0.0);
}

/// The embedding is tied to the head: one gradient, counted once and scaled once.
#[test]
fn tied_parameters_count_once() {
    let device = Device::flex().autodiff();
    let net = Net::new(1, &device);
    let grads = net.grads(7, &device);
    let squares = |grads: &GradientsParams| -> f64 {
        let vector = |id| grads.get::<1>(id).map(|g| g.square().sum().into_scalar::<f32>());
        let matrix = |id| grads.get::<2>(id).map(|g| g.square().sum().into_scalar::<f32>());
        let of = |p: crate::NamedParameter| if p.shape.len() == 1 { vector(p.id) } else { matrix(p.id) };
        named_parameters(&net)
            .into_iter()
            .map(|p| f64::from(of(p).unwrap()))
            .sum()
    };
    let expected = squares(&grads).sqrt();
    let (grads, norm) = clip_grad_norm(&net, grads, 0.01);
    assert!(
        (norm.value() / expected - 1.0).abs() < 1e-6,
        "{} is not {expected}",
        norm.value()
    );
    assert!((squares(&grads).sqrt() / 0.01 - 1.0).abs() < 1e-3);
}

/// A window of two batches, summed and divided by its tokens, is the mean over both.
#[test]
fn accumulation_weighs_by_tokens() {
    let device = Device::flex().autodiff();
    let net = Net::new(1, &device);
    let mut window = GradientsAccumulator::new();
    window.accumulate(&net, net.grads(1, &device));
    window.accumulate(&net, net.grads(2, &device));
    let mean = scale_grads(&net, window.grads(), 1.0 / 6.0);
    let whole = (net.loss(1, &device) + net.loss(2, &device)).div_scalar(6.0).backward();
    let whole = GradientsParams::from_grads(whole, &net);
    let read = |grads: &GradientsParams| {
        grads
            .get::<2>(net.embed.id)
            .unwrap()
            .to_data()
            .try_to_vec::<f32>()
            .unwrap()
    };
    for (a, b) in read(&mean).iter().zip(read(&whole)) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{a}, expected {b}");
    }
}
