//! Weights stored in one type, activations computed in another.

use burn::tensor::{DType, Device, FloatDType, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::{Adaptable, AnyTensor, ModuleSlot, Pass, attach};

use crate::methods_laws::{BASES, config, disturb};
use crate::support::{arrays, fixture};
use crate::train_support::Workshop;

fn load(name: &str, dtype: LoadDtype, device: &Device) -> Model {
    Model::load(&fixture(name), dtype, device).unwrap()
}

fn hidden(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    model.forward(ids, &Rows::Right, None, &Pass::eval())
}

/// Largest difference, relative to the largest of `b`.
fn distance(a: Tensor<3>, b: Tensor<3>) -> f32 {
    let scale = b.clone().abs().max().into_scalar::<f32>();
    (a - b).abs().max().into_scalar::<f32>() / scale
}

/// The same numbers in f32.
fn widened(name: &str, dtype: LoadDtype, device: &Device) -> Model {
    let folder = tempfile::tempdir().unwrap();
    load(name, dtype, device).save(folder.path(), LoadDtype::Auto).unwrap();
    Model::load(folder.path(), LoadDtype::F32, device).unwrap()
}

#[test]
fn sixteen_bit_weights_are_computed_with_in_f32() {
    let device = Device::flex();
    for name in BASES {
        for dtype in [LoadDtype::Bf16, LoadDtype::F16] {
            let mut model = load(name, dtype, &device).computing_in(FloatDType::F32);
            let wide = widened(name, dtype, &device);
            let what = format!("{name} in {dtype:?}");
            assert_eq!(hidden(&model).dtype(), DType::F32, "{what}");
            assert_eq!(model.compute(), FloatDType::F32, "{what}");
            // Nothing is widened for good.
            for mut module in model.target_modules() {
                for (leaf, tensor) in module.tensors() {
                    let held = match tensor {
                        AnyTensor::Vector(t) => t.dtype(),
                        AnyTensor::Matrix(t) => t.dtype(),
                    };
                    let stored = if dtype == LoadDtype::Bf16 {
                        DType::BF16
                    } else {
                        DType::F16
                    };
                    assert_eq!(held, stored, "{what}: {}.{leaf}", module.path);
                }
            }
            let apart = distance(hidden(&model), hidden(&wide));
            assert!(apart < 2e-6, "{what}: {apart:e} from the same numbers in f32");
            let logits = |model: &Model| model.logits(hidden(model));
            let apart = distance(logits(&model), logits(&wide));
            assert!(apart < 2e-6, "{what}: logits {apart:e} apart");
        }
    }
}

#[test]
fn gradients_of_f32_adapters_over_sixteen_bit_weights_are_those_over_the_widened_ones() {
    let device = Device::flex().autodiff();
    let lora = config(r#"{"method": "lora", "rank": 2}"#);
    for name in BASES {
        let gradients = |mut model: Model| {
            attach(&mut model, &lora, 3).unwrap();
            disturb(&mut model);
            let loss = hidden(&model).powf_scalar(2.0).sum();
            let grads = loss.backward();
            let mut found = Vec::new();
            for mut module in model.target_modules() {
                let ModuleSlot::Projection(_) = module.slot else {
                    continue;
                };
                for (_, param) in module.params() {
                    let ft_peft::ParamMut::Matrix(param) = param else {
                        continue;
                    };
                    let gradient = param.val().grad(&grads).unwrap();
                    assert_eq!(gradient.dtype(), DType::F32);
                    found.push(gradient.unsqueeze::<3>());
                }
            }
            found
        };
        let stored = gradients(load(name, LoadDtype::Bf16, &device).computing_in(FloatDType::F32));
        let wide = gradients(widened(name, LoadDtype::Bf16, &device));
        assert!(!stored.is_empty() && stored.len() == wide.len());
        for (stored, wide) in stored.into_iter().zip(wide) {
            let apart = distance(stored, wide);
            assert!(apart < 1e-5, "{name}: {apart:e}");
        }
    }
}

#[test]
fn activations_take_the_type_that_is_asked_for() {
    let device = Device::flex();
    for name in BASES {
        let wide = hidden(&load(name, LoadDtype::F32, &device));
        for (compute, bound) in [(FloatDType::BF16, 0.1), (FloatDType::F16, 0.02)] {
            let model = load(name, LoadDtype::F32, &device).computing_in(compute);
            assert_eq!(hidden(&model).dtype(), compute.into(), "{name}");
            assert_eq!(model.logits(hidden(&model)).dtype(), DType::F32, "{name}");
            let apart = distance(hidden(&model).cast(FloatDType::F32), wide.clone());
            assert!(apart > 0.0 && apart < bound, "{name} in {compute:?}: {apart:e}");
        }
    }
    let model = load(BASES[0], LoadDtype::Bf16, &device);
    assert_eq!(model.suited_compute(true), FloatDType::F32);
    assert_eq!(model.suited_compute(false), FloatDType::BF16);
    assert_eq!(
        load(BASES[0], LoadDtype::F32, &device).suited_compute(false),
        FloatDType::F32
    );
}

#[test]
fn a_run_over_sixteen_bit_weights_resumes_to_the_same_bytes_and_plans_half_the_memory() {
    let workshop = Workshop::new();
    let sets = ["model.dtype=bf16", "train.steps=6", "train.save_every=3"];
    let weights = |sets: &[&str]| workshop.plan("plan", sets).unwrap().bytes.weights;
    assert_eq!(2 * weights(&sets), weights(&[]));
    workshop.fit("whole", &sets).unwrap();
    workshop.fit_until("parts", &sets, 3);
    workshop.resume("parts", &sets).unwrap();
    assert_eq!(workshop.result("whole", 6), workshop.result("parts", 6));
    let plan = workshop.plan("warned", &["model.compute=bf16"]).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.starts_with("model.compute: the CPU")),
        "{:?}",
        plan.warnings
    );
}
