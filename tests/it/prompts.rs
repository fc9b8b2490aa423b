//! Prompt tuning, P-tuning and prefix tuning against PEFT: logits, gradients, AdamW steps, files both ways.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{AdamWConfig, Optim, OptimConfig};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, TargetModule, adapter};

use crate::production::{close_loss, in_gradients, peft_step};
use crate::support::{Array, arrays, close, fixture};

const CASES: [&str; 7] = [
    "prefix",
    "prefix_projection",
    "prompt",
    "ptuning_mlp",
    "ptuning_lstm",
    "prefix_gpt2",
    "prompt_gpt2",
];

/// Cases whose virtual tokens come out of an encoder.
const ENCODED: [&str; 3] = ["prefix_projection", "ptuning_mlp", "ptuning_lstm"];

/// Virtual tokens of every case.
const TOKENS: usize = 5;

/// Learning rate and decay of the goldens' AdamW.
const LR: f64 = 1e-2;
const DECAY: f64 = 1e-2;

fn dir(case: &str) -> PathBuf {
    fixture("peft").join(case)
}

pub fn base(case: &str, device: &Device) -> Model {
    let path = if case.ends_with("gpt2") {
        "families/gpt2"
    } else {
        "peft/base"
    };
    Model::load(&fixture(path), LoadDtype::F32, device).unwrap()
}

fn golden(case: &str) -> BTreeMap<String, Array> {
    arrays(&dir(case).join("golden.safetensors"))
}

/// The golden arrays under `group.`, by their names in PEFT's prompt encoder.
fn group(golden: &BTreeMap<String, Array>, group: &str) -> BTreeMap<String, Array> {
    let start = format!("{group}.prompt_encoder.default.");
    let named = golden
        .iter()
        .filter_map(|(name, array)| Some((name.strip_prefix(&start)?, array)));
    named.map(|(name, array)| (name.to_string(), array.clone())).collect()
}

/// A folder as ft writes it: PEFT's own, with the encoder that PEFT kept to itself beside it.
fn folder(case: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(dir(case).join(name), folder.path().join(name)).unwrap();
    }
    if ENCODED.contains(&case) {
        let params = group(&golden(case), "param");
        let bytes: Vec<Vec<u8>> = params.values().map(bytes).collect();
        let views = params.iter().zip(&bytes).map(|((name, array), bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, array.shape.clone(), bytes);
            (name.clone(), view.unwrap())
        });
        ft_peft::write_tensor_file(&folder.path().join(adapter::ENCODER), views).unwrap();
    }
    folder
}

fn bytes(array: &Array) -> Vec<u8> {
    array.values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect()
}

fn adapted(case: &str, device: &Device) -> (Model, PeftConfig) {
    let (mut model, folder) = (base(case, device), folder(case));
    let (config, _) = adapter::load(folder.path(), &mut model).unwrap();
    (model, config)
}

fn forward(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
    model.logits(hidden).without_autodiff()
}

/// The logits of a golden at the text's positions: PEFT's prompt methods give those of the virtual tokens too.
fn at_text(logits: &Array) -> Array {
    let [batch, columns, vocab] = logits.shape[..] else {
        panic!("{:?}", logits.shape)
    };
    let skipped = columns - 10;
    let rows = logits.values.chunks(columns * vocab);
    Array {
        shape: vec![batch, 10, vocab],
        values: rows.flat_map(|row| row[skipped * vocab..].to_vec()).collect(),
    }
}

/// What trains, by the names of PEFT's prompt encoder.
pub fn state(model: &Model) -> BTreeMap<String, AnyTensor> {
    let mut model = model.clone();
    let mut modules = model.target_modules();
    let tokens = modules.iter_mut().filter_map(TargetModule::virtual_tokens);
    tokens.flat_map(|tokens| tokens.state()).collect()
}

#[track_caller]
fn compare(case: &str, found: BTreeMap<String, AnyTensor>, expected: &BTreeMap<String, Array>, tolerance: f64) {
    assert!(
        !found.is_empty() && found.keys().eq(expected.keys()),
        "{case}: {:?} vs {:?}",
        found.keys(),
        expected.keys()
    );
    for (name, tensor) in found {
        let what = format!("{case} {name}");
        match tensor {
            AnyTensor::Vector(t) => close(&what, t.without_autodiff(), &expected[&name], tolerance),
            AnyTensor::Matrix(t) => close(&what, t.without_autodiff(), &expected[&name], tolerance),
        }
    }
}

/// The goldens' AdamW decays all parameters, ours leaves out vectors: here all decay is done by hand.
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
        let golden = golden(case);
        let (model, _) = adapted(case, &device);
        compare(case, state(&model), &group(&golden, "param"), 0.0);
        assert_eq!(model.virtual_tokens(), TOKENS);
        close(case, forward(&model), &at_text(&golden["logits"]), 1e-5);
        let (loss, grads) = peft_step(&model);
        close_loss(case, loss, golden["loss"].values[0], 1e-5);
        let gradients = in_gradients(&model, grads);
        compare(case, state(&gradients), &group(&golden, "grad"), 1e-4);
    }
}

#[test]
fn three_adamw_steps_equal_peft() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let golden = golden(case);
        let (mut model, _) = adapted(case, &device);
        let config = OptimConfig::AdamW(AdamWConfig {
            weight_decay: 0.0,
            ..Default::default()
        });
        let mut optim = Optim::new(&config).unwrap();
        for expected in &golden["losses"].values {
            let (loss, grads) = peft_step(&model);
            close_loss(case, loss, *expected, 1e-4);
            model = optim.step(LR, model.map(&mut Decay), grads);
        }
        compare(case, state(&model), &group(&golden, "after"), 1e-4);
        close(case, forward(&model), &at_text(&golden["after_logits"]), 1e-4);
    }
}

#[test]
fn a_saved_adapter_is_the_one_that_was_read() {
    for case in CASES {
        let (mut model, config) = adapted(case, &Device::flex());
        let out = tempfile::tempdir().unwrap();
        let root = if case.ends_with("gpt2") {
            "tiny/gpt2"
        } else {
            "tiny/llama"
        };
        adapter::save(out.path(), &mut model, &config, root).unwrap();
        let name = "adapter_model.safetensors";
        let (ours, theirs) = (arrays(&out.path().join(name)), arrays(&dir(case).join(name)));
        assert_eq!(ours.keys().collect::<Vec<_>>(), ["prompt_embeddings"], "{case}");
        close(
            case,
            matrix(&ours["prompt_embeddings"]),
            &theirs["prompt_embeddings"],
            1e-6,
        );
        same_options(case, out.path());
        assert_eq!(
            out.path().join(adapter::ENCODER).exists(),
            ENCODED.contains(&case),
            "{case}"
        );
        let mut again = base(case, &Device::flex());
        adapter::load(out.path(), &mut again).unwrap();
        let moved = (forward(&again) - forward(&model)).abs().max().into_scalar::<f32>();
        assert_eq!(moved, 0.0, "{case}");
    }
}

fn matrix(array: &Array) -> Tensor<2> {
    array.floats(&Device::flex())
}

/// Every key we write has PEFT's value.
fn same_options(case: &str, ours: &Path) {
    let read = |dir: &Path| -> serde_json::Map<String, serde_json::Value> {
        let text = std::fs::read_to_string(dir.join("adapter_config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let theirs = read(&dir(case));
    for (key, value) in read(ours) {
        let expected = theirs.get(&key).unwrap_or_else(|| panic!("{case}: PEFT has no {key}"));
        assert_eq!(value.as_f64(), expected.as_f64(), "{case} {key}");
        if !value.is_number() {
            assert_eq!(value, *expected, "{case} {key}");
        }
    }
}

#[test]
fn a_folder_of_peft_works_without_the_encoder_but_does_not_train() {
    for case in CASES {
        let device = Device::flex().autodiff();
        let mut model = base(case, &device);
        adapter::load(&dir(case), &mut model).unwrap();
        close(case, forward(&model), &at_text(&golden(case)["logits"]), 1e-5);
        let encoded = ENCODED.contains(&case);
        assert_eq!(model.num_params() == 0, encoded, "{case}");
        assert_eq!(adapter::encoder_is_missing(&dir(case)).unwrap(), encoded, "{case}");
        assert!(!adapter::encoder_is_missing(folder(case).path()).unwrap(), "{case}");
    }
}

#[test]
fn an_encoder_of_another_adapter_is_refused() {
    let (folder, other) = (folder("ptuning_mlp"), folder("ptuning_lstm"));
    let encoder = folder.path().join(adapter::ENCODER);
    let load = || {
        adapter::load(folder.path(), &mut base("prompt", &Device::flex()))
            .unwrap_err()
            .to_string()
    };
    std::fs::copy(other.path().join(adapter::ENCODER), &encoder).unwrap();
    assert!(
        load().contains("mlp_head.4.weight: missing from the file"),
        "{}",
        load()
    );
    let mut params = group(&golden("ptuning_mlp"), "param");
    params.get_mut("mlp_head.4.bias").unwrap().values[3] += 0.1;
    let bytes: Vec<Vec<u8>> = params.values().map(bytes).collect();
    let views = params.iter().zip(&bytes).map(|((name, array), bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, array.shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    ft_peft::write_tensor_file(&encoder, views).unwrap();
    assert!(
        load().contains("does not belong to the adapter_model.safetensors"),
        "{}",
        load()
    );
}
