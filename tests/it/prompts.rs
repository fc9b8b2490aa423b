//! Prompt tuning, P-tuning, prefix tuning and P-tuning v2 against PEFT, and what holds for all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use ft_infer::{GenerationConfig, generate, no_stream};
use ft_model::{KvCache, LoadDtype, Model, Rows};
use ft_optim::{AdamWConfig, Optim, OptimConfig};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, Site, adapter, attach, fold};

use crate::support::{Array, arrays, close, fixture, learned};

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

fn base(case: &str, device: &Device) -> Model {
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

fn loss(model: &Model) -> Tensor<1> {
    let (forward, device) = (arrays(&fixture("peft/base_forward.safetensors")), model.device());
    let hidden = model.forward(forward["input_ids"].ids(&device), &Rows::Right, None, &Pass::train(1));
    let [batch, seq, width] = hidden.dims();
    let (positions, targets) = learned(&forward["labels"], &device);
    let count = targets.dims()[0] as f64;
    let hidden = hidden.reshape([batch * seq, width]).select(0, positions);
    model.nll_sum(hidden, targets).div_scalar(count)
}

/// What trains, by the names of PEFT's prompt encoder.
fn state(model: &Model) -> BTreeMap<String, AnyTensor> {
    let mut model = model.clone();
    let mut sites = model.sites();
    let tokens = sites.iter_mut().filter_map(Site::virtual_tokens);
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

/// Puts its gradient in the place of every parameter.
struct ToGradient(Gradients);

impl ModuleMapper for ToGradient {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad(&self.0).expect("every parameter has a gradient");
        Param::initialized(param.id, Tensor::from_data(gradient.into_data(), &param.val().device()))
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
        let loss = loss(&model);
        close(case, loss.clone().inner(), &golden["loss"], 1e-5);
        let gradients = model.map(&mut ToGradient(loss.backward()));
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
            let loss = loss(&model);
            let found = f64::from(loss.clone().into_scalar::<f32>());
            assert!(
                (found - expected).abs() < 1e-4,
                "{case}: loss {found}, expected {expected}"
            );
            let grads = GradientsParams::from_grads(loss.backward(), &model);
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
        assert_eq!(largest(forward(&again) - forward(&model)), 0.0, "{case}");
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

/// Options on each kind of block and window, for what holds for all of them.
const OPTIONS: [&str; 6] = [
    r#"{"method": "prompt_tuning", "num_virtual_tokens": 3, "prompt_tuning_init": "random"}"#,
    r#"{"method": "p_tuning", "num_virtual_tokens": 4}"#,
    r#"{"method": "p_tuning", "num_virtual_tokens": 2, "encoder_reparameterization_type": "lstm", "encoder_hidden_size": 8}"#,
    r#"{"method": "prefix_tuning", "num_virtual_tokens": 3}"#,
    r#"{"method": "prefix_tuning", "num_virtual_tokens": 5, "prefix_projection": true, "encoder_hidden_size": 12}"#,
    r#"{"method": "p_tuning_v2", "num_virtual_tokens": 4}"#,
];

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen3", "gpt2"];

fn each(mut law: impl FnMut(&str, Model)) {
    for options in OPTIONS {
        for family in FAMILIES {
            let dir = fixture("families").join(family);
            let mut model = Model::load(&dir, LoadDtype::F32, &Device::flex()).unwrap();
            attach(&mut model, &serde_json::from_str(options).unwrap(), 5).unwrap();
            law(&format!("{options} on {family}"), model);
        }
    }
}

fn ids(rows: &[&[i32]]) -> Tensor<2, Int> {
    let flat: Vec<i32> = rows.concat();
    Tensor::from_data(TensorData::new(flat, [rows.len(), rows[0].len()]), &Device::flex())
}

fn largest(difference: Tensor<3>) -> f32 {
    difference.abs().max().into_scalar::<f32>()
}

#[test]
fn a_cache_changes_no_logit() {
    let sequence: Vec<i32> = (0..24).map(|i| 3 + (i * 29) % 93).collect();
    let second: Vec<i32> = (0..24).map(|i| 3 + (i * 41 + 7) % 93).collect();
    each(|what, model| {
        for rows in [Rows::Right, Rows::Left(vec![0, 4])] {
            let whole = model.forward(ids(&[&sequence, &second]), &rows, None, &Pass::eval());
            let whole = model.logits(whole);
            assert_eq!(whole.dims(), [2, 24, 96], "{what}");
            let mut cache = KvCache::new(model.config().num_hidden_layers);
            let mut start = 0;
            for columns in [7, 1, 1, 3, 1, 11] {
                let end = start + columns;
                let part = ids(&[&sequence[start..end], &second[start..end]]);
                let part = model.logits(model.forward(part, &rows, Some(&mut cache), &Pass::eval()));
                let from = if start == 0 { 4 } else { 0 };
                let expected = whole.clone().narrow(1, start + from, columns - from);
                let difference = largest(part.narrow(1, from, columns - from) - expected);
                assert!(
                    difference < 3e-5,
                    "{what}, {rows:?}, columns {start}..{end}: {difference}"
                );
                start = end;
            }
        }
    });
}

#[test]
fn padding_changes_no_logit() {
    let sequence: Vec<i32> = (0..20).map(|i| 3 + (i * 29) % 93).collect();
    each(|what, model| {
        let alone = model.forward(ids(&[&sequence[6..]]), &Rows::Right, None, &Pass::eval());
        let both = ids(&[&sequence, &[&[0; 6], &sequence[6..]].concat()]);
        let padded = model.forward(both, &Rows::Left(vec![0, 6]), None, &Pass::eval());
        let difference = largest(padded.narrow(0, 1, 1).narrow(1, 6, 14) - alone);
        assert!(difference < 3e-5, "{what}: {difference}");
    });
}

#[test]
fn a_batch_generates_what_each_prompt_does_alone() {
    let prompts: Vec<Vec<u32>> = vec![(3..12).collect(), vec![40, 41], vec![7, 60, 5, 33]];
    each(|what, model| {
        let tokens = |batch_size| {
            let config = GenerationConfig {
                batch_size,
                ..GenerationConfig::greedy(12, [])
            };
            let generations = generate(&model, &prompts, &config, &mut no_stream).unwrap();
            generations.into_iter().map(|g| g.tokens).collect::<Vec<_>>()
        };
        assert_eq!(tokens(3), tokens(1), "{what}");
    });
}

#[test]
fn virtual_tokens_cannot_be_merged() {
    each(|what, mut model| {
        let input = ids(&[&[3, 4, 5]]);
        let hidden = |model: &Model| model.forward(input.clone(), &Rows::Right, None, &Pass::eval());
        let before = hidden(&model);
        let error = fold(&mut model).unwrap_err().to_string();
        let way_out = "so no weight can stand for it and it cannot be merged; keep base and adapter apart";
        assert!(error.contains(way_out), "{error}");
        assert_eq!(largest(hidden(&model) - before), 0.0, "{what}");
        let out = tempfile::tempdir().unwrap();
        assert!(
            matches!(
                model.save(out.path(), LoadDtype::F32),
                Err(ft_model::Error::NotFolded(_))
            ),
            "{what}"
        );
    });
}

#[test]
fn virtual_tokens_take_positions() {
    let dir = fixture("families/gpt2"); // 64 learned positions
    let mut model = Model::load(&dir, LoadDtype::F32, &Device::flex()).unwrap();
    let config: PeftConfig = serde_json::from_str(OPTIONS[0]).unwrap();
    attach(&mut model, &config, 5).unwrap();
    assert_eq!(model.positions(), 61);
    let long: Vec<u32> = (0..60).map(|i| 3 + i % 90).collect();
    let generated = generate(
        &model,
        std::slice::from_ref(&long),
        &GenerationConfig::greedy(16, []),
        &mut no_stream,
    )
    .unwrap();
    assert_eq!(generated[0].tokens.len(), 1);
    let error = generate(
        &model,
        &[[long, vec![5]].concat()],
        &GenerationConfig::greedy(16, []),
        &mut no_stream,
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the model has 61 positions"), "{error}");
}

#[test]
fn dropout_of_the_lstm_acts_in_training_alone() {
    let options = r#"{"method": "p_tuning", "encoder_reparameterization_type": "lstm", "encoder_dropout": 0.5}"#;
    let mut model = base("prompt", &Device::flex());
    attach(&mut model, &serde_json::from_str(options).unwrap(), 5).unwrap();
    let input = ids(&[&[3, 4, 5]]);
    let hidden = |pass: Pass| model.forward(input.clone(), &Rows::Right, None, &pass);
    assert_eq!(largest(hidden(Pass::train(7)) - hidden(Pass::train(7))), 0.0);
    assert!(largest(hidden(Pass::train(8)) - hidden(Pass::train(7))) > 1e-3);
    assert!(largest(hidden(Pass::eval()) - hidden(Pass::train(7))) > 1e-3);
    assert_eq!(largest(hidden(Pass::eval()) - hidden(Pass::eval())), 0.0);
}

#[test]
fn a_text_or_the_vocabulary_starts_a_prompt() {
    let embeddings = |config: PeftConfig| {
        let mut model = base("prompt", &Device::flex());
        attach(&mut model, &config, 5).unwrap();
        let AnyTensor::Matrix(rows) = state(&model)["embedding.weight"].clone() else {
            panic!()
        };
        (rows, model)
    };
    let options = r#"{"method": "prompt_tuning", "num_virtual_tokens": 5, "prompt_tuning_init": "text",
        "prompt_tuning_init_text": "three words here"}"#;
    let config: PeftConfig = serde_json::from_str(options).unwrap();
    assert_eq!(config.init_text().unwrap().1, "three words here");
    let (rows, model) = embeddings(config.clone().with_init_ids(vec![7, 9, 11]));
    let table = table(&model);
    let expected = table
        .clone()
        .select(0, Tensor::from_ints([7, 9, 11, 7, 9], &Device::flex()));
    assert_eq!((rows - expected).abs().max().into_scalar::<f32>(), 0.0);

    let mut model = base("prompt", &Device::flex());
    let error = |ids: Vec<u32>, model: &mut Model| {
        let config = config.clone().with_init_ids(ids);
        attach(model, &config, 5).unwrap_err().to_string()
    };
    let found = error(vec![], &mut model);
    assert!(found.contains("peft.prompt_tuning_init_text: has no token"), "{found}");
    let found = error(vec![3, 64], &mut model);
    assert!(
        found.contains("holds token id 64, but the model knows 64 ids"),
        "{found}"
    );

    let sampled = r#"{"method": "prompt_tuning", "num_virtual_tokens": 5, "prompt_tuning_init": "sample_vocab"}"#;
    let (rows, _) = embeddings(serde_json::from_str(sampled).unwrap());
    // Every row is one of the table's.
    let apart = rows.unsqueeze_dim::<3>(1) - table.unsqueeze_dim::<3>(0); // [5, 64, hidden]
    let nearest = apart.abs().sum_dim(2).min_dim(1);
    assert_eq!(nearest.max().into_scalar::<f32>(), 0.0);
}

fn table(model: &Model) -> Tensor<2> {
    let mut model = model.clone();
    let mut sites = model.sites();
    match sites[0].tensors().remove(0) {
        (_, AnyTensor::Matrix(table)) => table,
        other => panic!("{other:?}"),
    }
}
