//! Every weight-space method against PEFT: logits, gradients, AdamW steps, merged logits, files both ways.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{Adaptable, AnyTensor, Delta, ModuleSlot, ParamMut, Pass, PeftConfig, WeightDelta, adapter, fold};

use crate::production::{close_loss, in_gradients, peft_step};
use crate::support::{Array, arrays, close, fixture};

const CASES: [&str; 18] = [
    "dora",
    "gralora",
    "gralora_hybrid",
    "ia3",
    "ln_tuning",
    "loha",
    "loha_pattern",
    "lokr",
    "lokr_pattern",
    "miss",
    "miss_bat",
    "miss_mini",
    "miss_uneven",
    "oft",
    "osf",
    "osf_pattern",
    "shira",
    "vera",
];

/// Learning rate and decay of the goldens' AdamW.
const LR: f64 = 1e-2;
const DECAY: f64 = 1e-2;

fn dir(case: &str) -> PathBuf {
    fixture("peft").join(case)
}

fn base(device: &Device) -> Model {
    Model::load(&fixture("peft/base"), LoadDtype::F32, device).unwrap()
}

fn adapted(case: &str, device: &Device) -> (Model, PeftConfig) {
    let mut model = base(device);
    let (config, _) = adapter::load(&dir(case), &mut model).unwrap();
    (model, config)
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
    model.logits(hidden).without_autodiff()
}

/// What trains, by the names of PEFT's file.
fn trainable(model: &mut Model) -> BTreeMap<String, AnyTensor> {
    let mut out = BTreeMap::new();
    for mut module in model.target_modules() {
        let path = module.path.clone();
        if let ModuleSlot::Projection(slot) = &mut module.slot {
            for (name, param) in slot.delta.iter_mut().flat_map(WeightDelta::params) {
                let tensor = match param {
                    ParamMut::Vector(param) => AnyTensor::Vector(param.val()),
                    ParamMut::Matrix(param) => AnyTensor::Matrix(param.val()),
                };
                out.insert(format!("{path}.{name}"), tensor);
            }
        }
        if module.is_trained() {
            for (leaf, tensor) in module.tensors() {
                out.insert(format!("{path}.ln_tuning_layers.{leaf}"), tensor);
            }
        }
    }
    out
}

/// The golden arrays under `group.`, by the names of PEFT's file.
fn golden_group(golden: &BTreeMap<String, Array>, group: &str) -> BTreeMap<String, Array> {
    let plain = |name: &str| {
        let name = name.strip_prefix(group)?.strip_prefix(".base_model.model.")?;
        let name = name.replace(".default", "");
        Some(name.replace("magnitude_vector.weight", "magnitude_vector"))
    };
    golden
        .iter()
        .filter_map(|(name, array)| Some((plain(name)?, array.clone())))
        .collect()
}

#[track_caller]
fn compare(case: &str, found: BTreeMap<String, AnyTensor>, expected: &BTreeMap<String, Array>, tolerance: f64) {
    assert!(!found.is_empty(), "{case}");
    let names = (found.keys(), expected.keys());
    assert!(
        names.0.eq(names.1),
        "{case}: {:?} vs {:?}",
        found.keys(),
        expected.keys()
    );
    for (name, tensor) in found {
        let what = format!("{case} {name}");
        let mut expected = expected[&name].clone();
        if expected.shape.len() == 3 {
            // Blocks of PEFT's file are one below the other here.
            expected.shape = vec![expected.shape[0] * expected.shape[1], expected.shape[2]];
        }
        match tensor {
            AnyTensor::Vector(t) => close(&what, t.without_autodiff(), &expected, tolerance),
            AnyTensor::Matrix(t) => close(&what, t.without_autodiff(), &expected, tolerance),
        }
    }
}

/// The goldens' AdamW decays norms too, ours does not: here all decay is done by hand.
struct Decay;

impl ModuleMapper for Decay {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val().detach().mul_scalar(1.0 - LR * DECAY);
        Param::initialized(param.id, value.detach()).set_require_grad(true)
    }
}

#[test]
fn logits_and_gradients_equal_peft() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let (mut model, _) = adapted(case, &device);
        compare(case, trainable(&mut model), &golden_group(&golden, "param"), 0.0);
        close(case, logits(&model), &golden["logits"], 1e-5);
        let (loss, grads) = peft_step(&model);
        close_loss(case, loss, golden["loss"].values[0], 1e-5);
        let gradients = trainable(&mut in_gradients(&model, grads));
        compare(case, gradients, &golden_group(&golden, "grad"), 1e-4);
    }
}

#[test]
fn three_adamw_steps_and_the_merge_equal_peft() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let (mut model, _) = adapted(case, &device);
        let config = OptimConfig::AdamW(ft_optim::AdamWConfig {
            weight_decay: 0.0,
            ..Default::default()
        });
        let mut optim = Optim::new(&config).unwrap();
        for expected in &golden["losses"].values {
            let (loss, grads) = peft_step(&model);
            close_loss(case, loss, *expected, 1e-4);
            model = optim.step(LR, model.map(&mut Decay), grads);
        }
        compare(case, trainable(&mut model), &golden_group(&golden, "after"), 1e-4);
        close(case, logits(&model), &golden["after_logits"], 1e-4);
        fold(&mut model).unwrap();
        assert!(trainable(&mut model).is_empty(), "{case}");
        close(case, logits(&model), &golden["merged_logits"], 1e-4);
    }
}

#[test]
fn a_saved_adapter_is_the_one_that_was_read() {
    for case in CASES {
        let (mut model, config) = adapted(case, &Device::flex());
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &mut model, &config, "tiny/llama").unwrap();
        let name = "adapter_model.safetensors";
        let (ours, theirs) = (arrays(&out.path().join(name)), arrays(&dir(case).join(name)));
        assert!(ours.keys().eq(theirs.keys()), "{case}: {:?}", ours.keys());
        let same = |(name, array): (&String, &Array)| array.values == theirs[name].values;
        assert!(ours.iter().all(same), "{case}");
        same_options(case, out.path());
        let mut again = base(&Device::flex());
        adapter::load(out.path(), &mut again).unwrap();
        let golden = arrays(&dir(case).join("golden.safetensors"));
        close(case, logits(&again), &golden["logits"], 1e-5);
    }
}

#[test]
fn projections_that_vera_left_out_are_drawn_as_pytorch_draws_them() {
    let (source, out) = (dir("vera"), tempfile::tempdir().unwrap());
    let name = "adapter_config.json";
    let config = std::fs::read_to_string(source.join(name)).unwrap();
    let config = config.replace("\"save_projection\": true", "\"save_projection\": false");
    std::fs::write(out.path().join(name), config).unwrap();
    let (mut model, _) = adapted("vera", &Device::flex());
    let mut config = adapter::read_config(out.path()).unwrap();
    if let PeftConfig::Vera(vera) = &mut config {
        assert!(!vera.save_projection);
    }
    ft_peft::attach(&mut model, &config, 9).unwrap();
    let saved = arrays(&source.join("adapter_model.safetensors"));
    let Some(Delta::Vera(vera)) = model.target_modules().into_iter().find_map(|module| match module.slot {
        ModuleSlot::Projection(slot) => slot.delta.clone(),
        _ => None,
    }) else {
        panic!("no VeRA")
    };
    close("vera_A", vera.shared_a, &saved["base_model.vera_A"], 0.0);
    close("vera_B", vera.shared_b, &saved["base_model.vera_B"], 0.0);
}

/// Every key we write has PEFT's value; lists are sets there.
fn same_options(case: &str, ours: &std::path::Path) {
    let read = |dir: &std::path::Path| -> serde_json::Map<String, serde_json::Value> {
        let text = std::fs::read_to_string(dir.join("adapter_config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let theirs = read(&dir(case));
    for (key, mut value) in read(ours) {
        let mut expected = theirs
            .get(&key)
            .unwrap_or_else(|| panic!("{case}: PEFT has no {key}"))
            .clone();
        for list in [&mut value, &mut expected].into_iter().filter_map(|v| v.as_array_mut()) {
            list.sort_by_key(|entry| entry.to_string());
        }
        assert_eq!(value.as_f64(), expected.as_f64(), "{case} {key}");
        if !value.is_number() {
            assert_eq!(value, expected, "{case} {key}");
        }
    }
}
