use burn::module::Module;
use burn::tensor::{DType, Device, TensorData};

use super::{Net, bits};
use crate::{Error, Mismatch, load_trainable_tensors, named_parameters, trainable_tensors};

fn paths<M: Module>(module: &M) -> Vec<String> {
    named_parameters(module).into_iter().map(|p| p.path).collect()
}

const TRAINED: [&str; 9] = [
    "embed",
    "layers.0.delta.a",
    "layers.0.delta.b",
    "layers.0.pair.0.weight",
    "layers.0.pair.1.weight",
    "layers.1.proj",
    "layers.1.pair.0.weight",
    "layers.1.pair.1.weight",
    "norm.weight",
];

#[test]
fn paths_have_no_variants_no_constants_no_frozen_and_no_tied_twins() {
    let net = Net::new(1, &Device::flex().autodiff());
    assert_eq!(paths(&net), TRAINED);
    let listed = named_parameters(&net);
    assert_eq!(listed[0].id, net.embed.id);
    assert_eq!(
        (listed[1].shape.as_slice(), listed[1].dtype),
        ([4, 2].as_slice(), DType::F32)
    );
}

#[test]
fn a_plain_device_lists_every_parameter() {
    let mut all = TRAINED.to_vec();
    all.push("frozen");
    assert_eq!(paths(&Net::new(1, &Device::flex())), all);
}

#[test]
fn values_come_back_to_the_bit_into_another_model() {
    let device = Device::flex().autodiff();
    let saved = trainable_tensors(&Net::new(1, &device));
    let other = Net::new(2, &device);
    let ids: Vec<_> = named_parameters(&other).into_iter().map(|p| p.id).collect();
    assert_ne!(bits(&other), bits(&Net::new(1, &device)));

    let loaded = load_trainable_tensors(other, saved).unwrap();
    assert_eq!(bits(&loaded), bits(&Net::new(1, &device)));
    assert_eq!(
        named_parameters(&loaded).into_iter().map(|p| p.id).collect::<Vec<_>>(),
        ids
    );
    assert!(loaded.embed.is_require_grad() && !loaded.frozen.is_require_grad());
    assert!(loaded.embed.is_autodiff());
    assert_eq!(loaded.head.to_data(), loaded.embed.to_data(), "tied tensors stay tied");
}

#[test]
fn all_mismatches_are_listed() {
    let device = Device::flex().autodiff();
    let mut saved = trainable_tensors(&Net::new(1, &device));
    saved.remove(1);
    saved[0].1 = TensorData::new(vec![0f32; 24], [4, 6]);
    saved[1].1 = saved[1].1.clone().convert_dtype(DType::F64);
    saved.push(("layers.9.proj".into(), TensorData::new(vec![0f32], [1])));
    let Err(Error::Tensors { mismatches, .. }) = load_trainable_tensors(Net::new(1, &device), saved.clone()) else {
        panic!("accepted")
    };
    let form = |name: &str, expected, found| Mismatch::Form {
        name: name.into(),
        expected,
        found,
    };
    let expected = [
        form("embed", (vec![6, 4], DType::F32), (vec![4, 6], DType::F32)),
        Mismatch::Missing("layers.0.delta.a".into()),
        form("layers.0.delta.b", (vec![2, 4], DType::F32), (vec![2, 4], DType::F64)),
        Mismatch::Unexpected("layers.9.proj".into()),
    ];
    assert_eq!(mismatches, expected);
    let text = load_trainable_tensors(Net::new(1, &device), saved)
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("parameters does not fit this model:\n"), "{text}");
    assert!(
        text.contains("tensor `embed` is F32 [4, 6], expected F32 [6, 4]"),
        "{text}"
    );
}
