//! Whole runs of `ft train` against PEFT, loss by loss, for every adapter of the fixtures.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use ft_train::{FitOptions, Plan, RunConfig, fit, read_metrics};
use serde_json::{Value, json};

use crate::support::fixture;

const CONFIG: &str = r#"
model.path = "base"
data = { train = "train.jsonl", format = "prompt-completion", shuffle = false }
optim = { lr = 5e-3, weight_decay = 0.0, clip = 1.0 }
schedule = { kind = "linear", warmup = 4 }
[train]
batch_size = 2
accumulation = 2
steps = 20
log_every = 1
longest_first = false
[eval]
samples = 0
"#;

/// The base that an adapter was made for.
fn base(case: &str) -> &'static str {
    match case {
        "lora_all_linear" => "families/qwen3",
        _ if case.contains("gpt2") => "families/gpt2",
        _ if case.starts_with("lora_bias") => "families/qwen2",
        _ => "peft/base",
    }
}

/// A base with a tokenizer whose token i is the word `wi`.
fn write_base(folder: &Path, case: &str) {
    fs::create_dir_all(folder).unwrap();
    let source = fixture(base(case));
    if case.ends_with("tied") {
        crate::tokens::write_tied(folder);
    } else {
        for name in ["config.json", "model.safetensors"] {
            fs::copy(source.join(name), folder.join(name)).unwrap();
        }
    }
    let word = |id: usize| if id == 2 { "</s>".to_owned() } else { format!("w{id}") };
    let vocab: serde_json::Map<String, Value> = (0..64).map(|id| (word(id), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [{"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(
        folder.join("tokenizer_config.json"),
        json!({"eos_token": "</s>"}).to_string(),
    )
    .unwrap();
}

fn words(ids: &Value) -> String {
    let ids = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
    ids.filter(|id| *id != 2)
        .map(|id| format!("w{id}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn losses(case: &str, samples: &Value) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    write_base(&dir.path().join("base"), case);
    let line =
        |sample: &Value| json!({"prompt": words(&sample[0]), "completion": words(&sample[1])}).to_string() + "\n";
    let text: String = samples.as_array().unwrap().iter().map(line).collect();
    fs::write(dir.path().join("train.jsonl"), text).unwrap();
    let file = dir.path().join("run.toml");
    fs::write(&file, CONFIG).unwrap();
    let out = dir.path().join("out");
    let sets = [
        format!("train.out={}", out.display()),
        format!("peft.from={}", fixture("peft").join(case).display()),
    ];
    let config = RunConfig::load(&file, &sets).unwrap_or_else(|e| panic!("{case}: {e}"));
    let plan = Plan::resolve(config, &Device::flex(), "cpu").unwrap_or_else(|e| panic!("{case}: {e}"));
    fit(plan, FitOptions::default()).unwrap_or_else(|e| panic!("{case}: {e}"));
    let lines = read_metrics(&out.join("metrics.jsonl"));
    lines.iter().filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn every_method_shows_the_losses_of_peft() {
    let golden: Value = serde_json::from_str(&fs::read_to_string(fixture("peft/runs.json")).unwrap()).unwrap();
    for (case, expected) in golden["losses"].as_object().unwrap() {
        let expected: Vec<f64> = expected
            .as_array()
            .unwrap()
            .iter()
            .map(|loss| loss.as_f64().unwrap())
            .collect();
        let found = losses(case, &golden["samples"]);
        assert_eq!(found.len(), expected.len(), "{case}");
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs() / expected;
            let allowed = 1e-5;
            println!("{case}, step {step}: differs by {error:e}");
            assert!(error <= allowed, "{case}, step {step}: {found}, PEFT has {expected}");
        }
    }
}
