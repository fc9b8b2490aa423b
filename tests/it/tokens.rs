//! Trainable token rows against PEFT, over tied and untied heads, and in whole runs.

use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{Adaptable, ParamMut, Pass, PeftConfig, adapter, attach, fold};

use ft_train::{MethodHook, TrainModel};

use crate::production::{close_loss, objective, peft_batch, peft_step, train_model};
use crate::support::{Array, arrays, close, fixture, learned};
use crate::train_support::Workshop;

const CASES: [&str; 5] = [
    "trainable_tokens",
    "trainable_tokens_tied",
    "trainable_tokens_gpt2",
    "lora_tokens",
    "lora_tokens_tied",
];

fn dir(case: &str) -> PathBuf {
    fixture("peft").join(case)
}

/// The goldens' base, its head tied to the embeddings where the case says so.
fn base(case: &str, device: &Device) -> Model {
    if case.ends_with("gpt2") {
        return Model::load(&fixture("families/gpt2"), LoadDtype::F32, device).unwrap();
    }
    if !case.ends_with("tied") {
        return Model::load(&fixture("peft/base"), LoadDtype::F32, device).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    write_tied(folder.path());
    Model::load(folder.path(), LoadDtype::F32, device).unwrap()
}

/// Writes the goldens' base with its head tied.
pub fn write_tied(folder: &Path) {
    let text = std::fs::read_to_string(fixture("peft/base/config.json")).unwrap();
    let tied = text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert_ne!(tied, text);
    std::fs::write(folder.join("config.json"), tied).unwrap();
    let bytes = std::fs::read(fixture("peft/base/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = file.tensors().into_iter().filter(|(name, _)| name != "lm_head.weight");
    safetensors::serialize_to_file(kept, None, &folder.join("model.safetensors")).unwrap();
}

fn adapted(case: &str, device: &Device) -> (Model, PeftConfig) {
    let mut model = base(case, device);
    let (config, _) = adapter::load(&dir(case), &mut model).unwrap();
    (model, config)
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
    model.logits(hidden).without_autodiff()
}

/// What trains, by PEFT's names in memory.
fn params(model: &mut Model) -> Vec<(String, Param<Tensor<2>>)> {
    let mut all = Vec::new();
    for mut module in model.target_modules() {
        let path = module.path.clone();
        for (name, param) in module.params() {
            let ParamMut::Matrix(param) = param else {
                panic!("{name} is a vector")
            };
            let name = match name.strip_suffix(".weight") {
                Some(name) => format!("{name}.default.weight"),
                None => format!("{name}.default"),
            };
            all.push((format!("base_model.model.{path}.{name}"), param.clone()));
        }
    }
    all
}

#[test]
fn logits_and_gradients_equal_peft() {
    for case in CASES {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let (mut model, _) = adapted(case, &Device::flex().autodiff());
        assert_eq!(model.is_tied(), !case.ends_with("tokens"), "{case}");
        close(case, logits(&model), &golden["logits"], 1e-5);
        let (loss, grads) = peft_step(&model);
        close_loss(case, loss, golden["loss"].values[0], 1e-5);
        let params = params(&mut model);
        assert_eq!(
            params.len(),
            golden.keys().filter(|name| name.starts_with("param.")).count(),
            "{case}"
        );
        for (name, param) in params {
            close(
                &name,
                param.val().without_autodiff(),
                &golden[&format!("param.{name}")],
                0.0,
            );
            close(
                &name,
                grads.get::<2>(param.id).unwrap(),
                &golden[&format!("grad.{name}")],
                1e-4,
            );
        }
    }
}

#[test]
fn three_steps_and_the_merge_equal_peft() {
    for case in CASES {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let (mut model, _) = adapted(case, &Device::flex().autodiff());
        let mut optim = Optim::new(&OptimConfig::default()).unwrap();
        for expected in &golden["losses"].values {
            let (loss, grads) = peft_step(&model);
            close_loss(case, loss, *expected, 1e-4);
            model = optim.step(1e-2, model, grads);
        }
        for (name, param) in params(&mut model) {
            close(
                &name,
                param.val().without_autodiff(),
                &golden[&format!("after.{name}")],
                1e-4,
            );
        }
        close(case, logits(&model), &golden["after_logits"], 1e-4);
        let tied = model.is_tied();
        fold(&mut model).unwrap();
        assert_eq!((model.num_params(), model.is_tied()), (0, tied), "{case}");
        close(case, logits(&model), &golden["merged_logits"], 1e-4);
    }
}

/// Training the table as a whole gives its rows the gradients of the rows that train alone.
#[test]
fn rows_of_a_tied_head_get_the_tables_gradient_smoothed_or_not() {
    const IDS: [usize; 3] = [3, 7, 11];
    for options in ["{}", r#"{"label_smoothing": 0.2}"#] {
        let gradient = |method: &str| {
            let mut model = base("tied", &Device::flex().autodiff());
            attach(&mut model, &serde_json::from_str(method).unwrap(), 0).unwrap();
            let train = TrainModel {
                objective: objective(options, &model),
                ..train_model(model, Default::default())
            };
            let mut hook = MethodHook::of(&PeftConfig::default());
            let step = train.step_gradients(&mut hook, &peft_batch(), None, &|| true);
            let [id] = burn::module::list_param_ids(&train.model)[..] else {
                panic!("one tensor trains")
            };
            step.unwrap().unwrap().grads.get::<2>(id).unwrap()
        };
        let rows = gradient(r#"{"method": "trainable_tokens", "token_indices": [3, 7, 11]}"#);
        let whole = gradient(r#"{"method": "full", "targets": ["embed_tokens"]}"#);
        for (k, id) in IDS.into_iter().enumerate() {
            let (own, whole) = (rows.clone().slice(k..k + 1), whole.clone().slice(id..id + 1));
            let scale = whole.clone().abs().max().into_scalar::<f32>();
            let error = (own - whole).abs().max().into_scalar::<f32>();
            assert!(
                scale > 0.0 && error <= 1e-5 * scale,
                "{options}, token {id}: {error:e} of {scale:e}"
            );
        }
    }
}

#[test]
fn evaluation_sees_the_rows_of_a_tied_head() {
    let (model, _) = adapted("trainable_tokens_tied", &Device::flex());
    let forward = arrays(&fixture("peft/base_forward.safetensors"));
    let hidden = model.forward(
        forward["input_ids"].ids(&model.device()),
        &Rows::Right,
        None,
        &Pass::eval(),
    );
    let [batch, seq, width] = hidden.dims();
    let (positions, targets) = learned(&forward["labels"], &model.device());
    let hidden = hidden.reshape([batch * seq, width]).select(0, positions);
    let mean = model.token_nll(hidden, targets).mean();
    close(
        "loss",
        mean,
        &arrays(&dir("trainable_tokens_tied").join("golden.safetensors"))["loss"],
        1e-5,
    );
}

#[test]
fn a_saved_adapter_is_the_one_that_was_read() {
    for case in CASES {
        let (mut model, config) = adapted(case, &Device::flex());
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &mut model, &config, "tiny/llama").unwrap();
        let file = "adapter_model.safetensors";
        let (ours, theirs) = (arrays(&out.path().join(file)), arrays(&dir(case).join(file)));
        assert!(ours.keys().eq(theirs.keys()), "{case}: {:?}", ours.keys());
        let same = |(name, array): (&String, &Array)| array.values == theirs[name].values;
        assert!(ours.iter().all(same), "{case}");
        let read = |dir: &std::path::Path| -> serde_json::Value {
            serde_json::from_str(&std::fs::read_to_string(dir.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (read(out.path()), read(&dir(case)));
        for key in [
            "peft_type",
            "token_indices",
            "trainable_token_indices",
            "target_modules",
        ] {
            assert_eq!(ours.get(key), theirs.get(key), "{case}: {key}");
        }
    }
}

#[test]
fn what_cannot_be_is_named() {
    for (options, expected) in [
        (r#"{"method": "trainable_tokens"}"#, "token_indices: names no token"),
        (
            r#"{"method": "trainable_tokens", "token_indices": [3, 3]}"#,
            "token_indices: names Id(3) twice",
        ),
        (
            r#"{"method": "trainable_tokens", "token_indices": [64]}"#,
            "64 is no row of model.embed_tokens, which has 64",
        ),
        (
            r#"{"method": "trainable_tokens", "token_indices": ["w"]}"#,
            "must be an id where no tokenizer is at hand",
        ),
        (
            r#"{"method": "trainable_tokens", "token_indices": [1], "targets": ["q_proj"]}"#,
            "q_proj is no embedding table",
        ),
        (
            r#"{"method": "lora", "trainable_token_indices": [1], "targets": ["embed_tokens", "q_proj"]}"#,
            "model.embed_tokens trains as a whole or has an adapter already",
        ),
        (
            r#"{"method": "lora", "trainable_token_indices": [1], "targets": ["lm_head"]}"#,
            "lm_head is the embedding table itself here",
        ),
        (
            r#"{"method": "lora", "loraplus_lr_embedding": 1e-5}"#,
            "loraplus_lr_embedding: goes with loraplus_lr_ratio only",
        ),
        (
            r#"{"method": "lora", "loraplus_lr_ratio": 0}"#,
            "loraplus_lr_ratio: must be a positive number",
        ),
    ] {
        let config: PeftConfig = serde_json::from_str(options).unwrap();
        let mut model = base("tied", &Device::flex());
        let error = attach(&mut model, &config, 0).unwrap_err().to_string();
        assert!(error.contains(expected), "{options}: {error}");
    }
}

const RUN: &[&str] = &[
    "peft.method=trainable_tokens",
    r#"peft.token_indices=["turn", "into", 4, "a", "b"]"#,
];

#[test]
fn tokens_are_named_by_their_text_and_a_stopped_run_goes_on() {
    let workshop = Workshop::new();
    // "a" is token 4.
    let error = workshop.plan("out", RUN).unwrap_err().to_string();
    assert!(error.contains("token_indices: names Id(4) twice"), "{error}");
    let sets = &[
        "peft.method=trainable_tokens",
        r#"peft.token_indices=["turn", "into", 4, "b"]"#,
    ];
    let plan = workshop.plan("out", sets).unwrap();
    assert_eq!(plan.attached.parameters, 4 * plan.model.hidden_size);
    let error = workshop
        .plan(
            "out",
            &["peft.method=trainable_tokens", r#"peft.token_indices=["zebra"]"#],
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"zebra\" is no token of the tokenizer"), "{error}");

    workshop.fit("alone", sets).unwrap();
    workshop.fit_until("cut", sets, 6);
    workshop.resume("cut", sets).unwrap();
    assert_eq!(workshop.curve("cut"), workshop.curve("alone"));
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    let tensors = arrays(&workshop.path("alone/final/adapter_model.safetensors"));
    let rows = &tensors["base_model.model.model.embed_tokens.trainable_tokens_delta"];
    assert_eq!(rows.shape[0], 4);
}

#[test]
fn a_token_that_no_sample_holds_is_warned_of() {
    let workshop = Workshop::new();
    let sets = &[
        "peft.method=trainable_tokens",
        r#"peft.token_indices=["turn", "<unk>"]"#,
    ];
    let plan = workshop.plan("out", sets).unwrap();
    let warned: Vec<_> = plan
        .warnings
        .iter()
        .filter(|w| w.contains("stands in no training sample"))
        .collect();
    assert!(warned.len() == 1 && warned[0].contains("<unk>"), "{:?}", plan.warnings);
}

#[test]
fn lora_plus_resumes_and_differs_from_lora() {
    let workshop = Workshop::new();
    let sets = &["peft.loraplus_lr_ratio=8", "optim.lr=2e-3"];
    let plan = workshop.plan("alone", sets).unwrap().summary();
    assert_eq!(plan.rates["B"], 16e-3);
    assert!(plan.to_string().contains("B 1.6e-2"), "{plan}");
    workshop.fit("alone", sets).unwrap();
    workshop.fit_until("cut", sets, 6);
    workshop.resume("cut", sets).unwrap();
    assert_eq!(workshop.curve("cut"), workshop.curve("alone"));
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    workshop.fit("plain", &sets[1..]).unwrap();
    assert_ne!(workshop.curve("plain"), workshop.curve("alone"));
}
