use std::collections::BTreeMap;

use burn::tensor::Device;

use super::*;

fn adapter(a: [[f32; 2]; 2], b: [[f32; 2]; 2], scale: f64) -> PlainLora {
    let device = Device::flex();
    let pair = Pair {
        a: Tensor::from_floats(a, &device),
        b: Tensor::from_floats(b, &device),
        scale,
        embedding: false,
    };
    PlainLora {
        base_model: None,
        fan_in_fan_out: false,
        modules: None,
        pairs: BTreeMap::from([("x".to_string(), pair)]),
    }
}

fn product(adapter: &PlainLora) -> Vec<f32> {
    let pair = &adapter.pairs["x"];
    host(&pair.b.clone().matmul(pair.a.clone()).mul_scalar(pair.scale))
}

#[test]
fn cat_and_full_rank_svd_are_the_weighted_sum_of_the_products() {
    let one = adapter([[1.0, 2.0], [0.5, -1.0]], [[1.0, 0.0], [3.0, 1.0]], 2.0);
    let two = adapter([[0.0, 1.0], [2.0, 0.25]], [[-1.0, 2.0], [0.5, 0.0]], 0.5);
    let sum = product(&one)
        .iter()
        .zip(product(&two))
        .map(|(a, b)| 0.7 * a - 0.3 * b)
        .collect::<Vec<_>>();
    for (method, svd) in [(Method::Cat, false), (Method::Linear, true)] {
        let how = Combination {
            method,
            svd,
            ..Combination::default()
        };
        let found = product(&combine(&[(one.clone(), 0.7), (two.clone(), -0.3)], &how).unwrap());
        let close = found.iter().zip(&sum).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close, "{method:?}: {found:?} {sum:?}");
    }
}

#[test]
fn dare_keeps_the_mean_and_its_draws_depend_on_the_seed_alone() {
    let how = |seed| Combination {
        method: Method::DareLinear,
        density: 0.3,
        seed,
        ..Combination::default()
    };
    let tensor = Tensor::<2>::ones([200, 200], &Device::flex());
    let drawn = |seed| host(&arithmetic(&[(tensor.clone(), 1.0)], &how(seed), "x"));
    let values = drawn(1);
    assert!(values.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.3).abs() < 1e-5));
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    // Four deviations of a mean of 40,000 draws.
    assert!((mean - 1.0).abs() < 4.0 * (0.7f32 / 0.3 / 40_000.0).sqrt(), "{mean}");
    assert_eq!(values, drawn(1));
    assert_ne!(values, drawn(2));
}

#[test]
fn what_cannot_be_combined_is_refused_by_name() {
    let one = adapter([[1.0; 2]; 2], [[1.0; 2]; 2], 1.0);
    let mut narrow = one.clone();
    let pair = narrow.pairs.get_mut("x").unwrap();
    (pair.a, pair.b) = (pair.a.clone().slice(s![0..1, ..]), pair.b.clone().slice(s![.., 0..1]));
    let message = |adapters: &[(PlainLora, f64)], how: Combination| combine(adapters, &how).unwrap_err().to_string();
    let plain = Combination::default();
    let both = [(one.clone(), 1.0), (narrow, 1.0)];
    assert!(message(&both, plain).contains("ranks 2 and 1"));
    assert!(combine(&both, &Combination { svd: true, ..plain }).is_ok());
    assert!(message(&[], plain).contains("at least one"));
    assert!(message(&[(one.clone(), 1.0)], Combination { density: 1.5, ..plain }).starts_with("density"));
    assert!(message(&[(one, f64::NAN)], plain).starts_with("weights"));
}
