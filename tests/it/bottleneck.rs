//! Bottleneck adapters, and AdapterHub's folders: logits against the `adapters` library, files both ways, and the refusals.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::{Adaptable, Pass, PeftConfig, adapter, attach, fold};

use crate::heads;
use crate::production::{close_loss, in_gradients};
use crate::support::{arrays, close, fixture};

/// Folder, our name of its method, and the largest error.
const CASES: [(&str, &str, f64); 10] = [
    ("pfeiffer", "pfeiffer", 1e-6),
    ("pfeiffer_rf4", "pfeiffer", 1e-6),
    ("houlsby", "houlsby", 1e-6),
    ("par", "parallel", 1e-6),
    ("lora", "lora", 1e-6),
    ("ia3", "ia3", 1e-6),
    // On bases whose logits are larger.
    ("gpt2_houlsby", "houlsby", 1e-5),
    ("gpt2_par", "parallel", 1e-5),
    ("mistral_layers", "houlsby", 1e-5),
    ("mistral_leave_out", "pfeiffer", 1e-5),
];

fn dir(case: &str) -> PathBuf {
    fixture("adapters").join(case)
}

fn base() -> Model {
    base_of("")
}

/// The base that a case's name begins with.
fn base_of(case: &str) -> Model {
    let family = case.split_once('_').map(|(family, _)| fixture("families").join(family));
    let folder = family.filter(|folder| folder.is_dir()).unwrap_or_else(|| dir("base"));
    Model::load(&folder, LoadDtype::F32, &Device::flex()).unwrap()
}

fn logits(model: &Model, golden: &Path) -> Tensor<3> {
    let ids = arrays(golden)["input_ids"].ids(&model.device());
    model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()))
}

#[test]
fn logits_equal_the_library() {
    for (case, method, tolerance) in CASES {
        let mut model = base_of(case);
        let (config, attached) = adapter::load(&dir(case), &mut model).unwrap();
        assert_eq!(config.name(), method, "{case}");
        assert_eq!(model.num_params(), attached.parameters, "{case}");
        let golden = dir(case).join("golden_forward.safetensors");
        close(case, logits(&model, &golden), &arrays(&golden)["logits"], tolerance);
    }
}

#[test]
fn a_folder_written_is_the_folder_read() {
    for (case, method, _) in CASES.iter().filter(|(_, method, _)| !["lora", "ia3"].contains(method)) {
        let mut model = base_of(case);
        let (config, _) = adapter::load(&dir(case), &mut model).unwrap();
        assert_eq!(config.name(), *method, "{case}");
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &mut model, &config, "").unwrap();
        let json = |dir: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
        };
        let mut theirs = json(&dir(case));
        // Two spellings of adding the residual once: we write the first.
        if *case == "mistral_leave_out" {
            theirs["config"]["original_ln_after"] = true.into();
            theirs["config"]["residual_before_ln"] = true.into();
        }
        assert_eq!(json(out.path()), theirs, "{case}");
        let tensors = |dir: &Path| arrays(&dir.join("adapter.safetensors"));
        let (ours, theirs) = (tensors(out.path()), tensors(&dir(case)));
        assert!(ours.keys().eq(theirs.keys()), "{case}: {:?}", ours.keys());
        assert!(
            ours.iter().all(|(name, array)| array.values == theirs[name].values),
            "{case}"
        );
    }
}

/// Folders of encoders with a head for labels: base among `fixtures/heads`, our name of the method.
const ENCODERS: [(&str, &str, &str); 5] = [
    ("bert_pfeiffer", "bert", "pfeiffer"),
    ("bert_houlsby", "bert", "houlsby"),
    ("roberta_par", "roberta", "parallel"),
    ("distilbert_pfeiffer", "distilbert", "pfeiffer"),
    ("distilbert_houlsby", "distilbert", "houlsby"),
];

#[test]
fn encoders_equal_the_library_padded_and_packed_with_gradients() {
    for (case, base, method) in ENCODERS {
        let golden = arrays(&dir(case).join("golden_forward.safetensors"));
        let (mut model, config) = heads::adapted(base, &dir(case), &Device::flex().autodiff());
        assert_eq!(config.name(), method, "{case}");
        let samples = heads::samples(&heads::golden(base), model.head().unwrap());
        for batch in heads::layouts(&samples) {
            let found = heads::outputs(&model, &batch, &Pass::eval()).without_autodiff();
            close(case, found, &golden["logits"], 2e-5);
            let loss = heads::loss(&model, &batch, &Pass::eval());
            close_loss(
                case,
                loss.clone().into_scalar::<f32>().into(),
                golden["loss"].values[0],
                1e-5,
            );
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let out = tempfile::tempdir().unwrap();
            adapter::save(out.path(), &mut in_gradients(&model, grads), &config, "").unwrap();
            let found = arrays(&out.path().join("adapter.safetensors"));
            let expected = golden.keys().filter_map(|key| key.strip_prefix("grad."));
            assert!(
                found.keys().map(String::as_str).eq(expected),
                "{case}: {:?}",
                found.keys()
            );
            for (name, mut array) in found {
                let mut expected = golden[&format!("grad.{name}")].clone();
                assert_eq!(array.shape, expected.shape, "{case} {name}");
                for flat in [&mut array, &mut expected] {
                    flat.shape = vec![flat.values.len()];
                }
                close(
                    &format!("{case} {name}"),
                    array.floats::<1>(&Device::flex()),
                    &expected,
                    1e-4,
                );
            }
        }
        same_folder(case, &mut model, &config);
    }
}

/// A folder of an encoder written is the one read, its head in files beside the adapter's.
fn same_folder(case: &str, model: &mut Model, config: &PeftConfig) {
    let out = tempfile::tempdir().unwrap();
    adapter::save(out.path(), model, config, "").unwrap();
    model.config().save_labels(out.path()).unwrap();
    for name in ["adapter_config.json", "head_config.json"] {
        let json = |dir: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
        };
        assert_eq!(json(out.path()), json(&dir(case)), "{case} {name}");
    }
    for name in ["adapter.safetensors", "model_head.safetensors"] {
        let (ours, theirs) = (arrays(&out.path().join(name)), arrays(&dir(case).join(name)));
        assert!(ours.keys().eq(theirs.keys()), "{case} {name}: {:?}", ours.keys());
        let same = |(key, array): (&String, &crate::support::Array)| array.values == theirs[key].values;
        assert!(ours.iter().all(same), "{case} {name}");
    }
}

#[test]
fn norms_in_another_order_are_refused_on_an_encoder() {
    let (source, out) = (dir("bert_pfeiffer"), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&source).unwrap().flatten() {
        std::fs::copy(entry.path(), out.path().join(entry.file_name())).unwrap();
    }
    let path = out.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("\"original_ln_after\": true", "\"original_ln_after\": false");
    let text = text.replace("\"residual_before_ln\": true", "\"residual_before_ln\": false");
    std::fs::write(&path, text).unwrap();
    let mut model = Model::load(&fixture("heads/bert"), LoadDtype::F32, &Device::flex()).unwrap();
    let error = adapter::load(out.path(), &mut model).unwrap_err().to_string();
    assert!(error.contains("original_ln_after: must be true"), "{error}");
}

/// What is read from AdapterHub and has a place in PEFT's layout is written in that.
#[test]
fn lora_and_ia3_become_peft_folders() {
    for case in ["lora", "ia3"] {
        let mut model = base();
        let (config, _) = adapter::load(&dir(case), &mut model).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &mut model, &config, "some/base").unwrap();
        let mut again = base();
        adapter::load(out.path(), &mut again).unwrap();
        let golden = dir(case).join("golden_forward.safetensors");
        close(case, logits(&again, &golden), &arrays(&golden)["logits"], 1e-6);
        assert!(out.path().join("adapter_model.safetensors").is_file());
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    for (case, expected) in [
        (
            "prefix",
            "config.architecture: \"prefix_tuning\" of AdapterHub is not supported",
        ),
        ("prefix_flat", "config.architecture: \"prefix_tuning\" of AdapterHub"),
        (
            "loreft",
            "config.architecture: \"reft\" of AdapterHub is not supported; bottleneck adapters",
        ),
    ] {
        let error = adapter::load(&dir(case), &mut base()).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("adapter_config.json"),
            "{error}"
        );
    }
    for (from, to, expected) in [
        (
            "\"ln_before\": false",
            "\"ln_before\": true",
            "ln_before: this option cannot be read yet",
        ),
        ("\"use_gating\": false", "\"use_gating\": true", "use_gating"),
        ("\"phm_layer\": false", "\"phm_layer\": true", "phm_layer"),
        ("\"inv_adapter\": null", "\"inv_adapter\": \"nice\"", "inv_adapter"),
        ("\"scaling\": 1.0", "\"scaling\": \"learned\"", "scaling: \"learned\""),
        (
            "\"non_linearity\": \"relu\"",
            "\"non_linearity\": \"cube\"",
            "non_linearity: \"cube\"",
        ),
        (
            "\"original_ln_after\": true",
            "\"original_ln_after\": false",
            "would be added 0 times",
        ),
        (
            "\"residual_before_ln\": true",
            "\"residual_before_ln\": false",
            "would be added 2 times",
        ),
        ("\"mh_adapter\": false", "\"other\": false", "mh_adapter: missing"),
        ("\"name\": \"pfeiffer\"", "\"name\": \"a.b\"", "peft.name"),
        ("\"name\": \"pfeiffer\"", "\"name\": \"other\"", "missing from the file"),
        (
            "\"reduction_factor\": 16",
            "\"reduction_factor\": 4",
            "the model needs [8, 32], the file has [2, 32]",
        ),
        (
            "\"reduction_factor\": 16",
            "\"reduction_factor\": {\"0\": 16}",
            "peft.reduction_factor: model.layers.1.output_adapters has no factor",
        ),
        (
            "\"leave_out\": []",
            "\"leave_out\": [7]",
            "the model has no layer 7; its layers are 0 to 1",
        ),
    ] {
        let text = std::fs::read_to_string(dir("pfeiffer").join("adapter_config.json")).unwrap();
        assert!(text.contains(from), "{from}");
        let out = tempfile::tempdir().unwrap();
        std::fs::write(out.path().join("adapter_config.json"), text.replace(from, to)).unwrap();
        let weights = "adapter.safetensors";
        std::fs::copy(dir("pfeiffer").join(weights), out.path().join(weights)).unwrap();
        let error = adapter::load(out.path(), &mut base()).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn a_pickle_is_refused_with_the_way_out() {
    let out = tempfile::tempdir().unwrap();
    let config = "adapter_config.json";
    std::fs::copy(dir("pfeiffer").join(config), out.path().join(config)).unwrap();
    std::fs::write(out.path().join("pytorch_adapter.bin"), b"").unwrap();
    let error = adapter::load(out.path(), &mut base()).unwrap_err().to_string();
    assert!(error.contains("use_safetensors=True"), "{error}");
}

#[test]
fn merging_is_refused_and_changes_nothing() {
    let mut model = base();
    adapter::load(&dir("houlsby"), &mut model).unwrap();
    let error = fold(&mut model).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.attention_adapters"), "{error}");
    assert!(error.contains("--adapter"), "{error}");
    let golden = dir("houlsby").join("golden_forward.safetensors");
    close("houlsby", logits(&model, &golden), &arrays(&golden)["logits"], 1e-6);
    let error = model
        .save(tempfile::tempdir().unwrap().path(), LoadDtype::F32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("attention_adapters"), "{error}");
}

#[test]
fn places_and_widths_follow_the_options() {
    let widths = |options: &str| -> Vec<(String, usize)> {
        let mut model = base();
        let config: PeftConfig = serde_json::from_str(options).unwrap();
        attach(&mut model, &config, 0).unwrap();
        let mut modules = model.target_modules();
        let filled = modules.iter_mut().filter_map(|module| {
            let path = module.path.strip_prefix("model.layers.")?.to_string();
            let (_, first) = module.params().into_iter().next()?;
            Some((path, first.data().shape()[0]))
        });
        filled.collect()
    };
    let place = |path: &str, width| (path.to_string(), width);
    assert_eq!(
        widths(r#"{"method": "pfeiffer"}"#),
        [place("0.output_adapters", 2), place("1.output_adapters", 2)]
    );
    assert_eq!(
        widths(r#"{"method": "houlsby", "reduction_factor": {"1": 4, "default": 64}}"#),
        [
            place("0.attention_adapters", 1),
            place("0.output_adapters", 1),
            place("1.attention_adapters", 8),
            place("1.output_adapters", 8)
        ]
    );
    assert_eq!(
        widths(r#"{"method": "parallel", "leave_out": [0]}"#),
        [place("1.output_adapters", 16)]
    );
    assert_eq!(
        widths(r#"{"method": "pfeiffer", "mh_adapter": true, "output_adapter": false, "reduction_factor": 0.5}"#),
        [place("0.attention_adapters", 64), place("1.attention_adapters", 64)]
    );
}
