//! A GGUF file as MODEL.

use serde_json::{Value, json};

use crate::serve_support::Server;
use crate::support::{Bench, ft, json as run};

/// The embedded model as a file of this type.
fn exported(bench: &Bench, dtype: &str) -> String {
    let out = bench.path(&format!("{dtype}.gguf")).display().to_string();
    ft(&[
        "export",
        "embedded:tiny",
        "--for",
        "llama.cpp",
        "--dtype",
        dtype,
        "--out",
        &out,
    ])
    .ok();
    out
}

fn generated(model: &str) -> Value {
    let asked = [
        "--prompt",
        "Who has key 3? ",
        "--temperature",
        "0",
        "--max-new-tokens",
        "12",
        "--json",
    ];
    run(&[&["generate", model], &asked[..]].concat())["tokens"].clone()
}

fn loss(bench: &Bench, model: &[&str]) -> f64 {
    let asked = ["--data", &bench.valid, "--json"];
    run(&[&["eval"], model, &asked[..]].concat())["loss"].as_f64().unwrap()
}

/// The embedded model is in bf16, and so is its file: nothing is rounded on the way there and back.
#[test]
fn every_verb_takes_it() {
    let bench = Bench::new();
    let file = exported(&bench, "bf16");
    let (found, own) = (
        run(&["inspect", &file, "--json"]),
        run(&["inspect", "embedded:tiny", "--json"]),
    );
    assert_eq!(found["kind"], "model");
    for key in [
        "model_type",
        "parameters",
        "layers",
        "heads",
        "vocab_size",
        "tied_embeddings",
        "eos_token_ids",
    ] {
        assert_eq!(found[key], own[key], "{key}");
    }
    assert_eq!(generated(&file), generated("embedded:tiny"));
    assert_eq!(loss(&bench, &[&file]), loss(&bench, &["embedded:tiny"]));

    let server = Server::of(&file, &[]);
    let body = |model: &str| json!({"model": model, "prompt": "Who has key 3? ", "max_tokens": 12, "temperature": 0});
    let served = server.ok("/v1/completions", &body(&file));
    let embedded = Server::start(&[]);
    let expected = embedded.ok("/v1/completions", &body("embedded:tiny"));
    assert_eq!(served["choices"][0]["text"], expected["choices"][0]["text"]);
    drop((server, embedded));

    let quantized = bench.path("int8").display().to_string();
    ft(&["quantize", &file, "--kind", "int8", "--out", &quantized]).ok();
    assert_eq!(
        loss(&bench, &[&quantized]),
        loss(&bench, &["embedded:tiny", "--quant", "int8"])
    );

    let smaller = exported(&bench, "q8_0");
    let found = run(&["inspect", &smaller, "--json"]);
    assert!(
        found["dtypes"]["q8_0"].as_u64().unwrap() > found["parameters"].as_u64().unwrap() / 2,
        "{found}"
    );
    assert!(
        found["bytes"].as_u64().unwrap() < own["bytes"].as_u64().unwrap() * 6 / 10,
        "{found}"
    );
    let (rounded, whole) = (loss(&bench, &[&smaller]), loss(&bench, &[&file]));
    assert!(rounded != whole && (rounded - whole).abs() < 0.05, "{rounded} {whole}");

    // A folder with one file is that file.
    let folder = bench.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::rename(&smaller, folder.join("m.gguf")).unwrap();
    assert_eq!(loss(&bench, &[&folder.display().to_string()]), rounded);
}

#[test]
fn a_run_on_it_ends_in_an_adapter_that_names_it_and_merges_into_a_folder() {
    let bench = Bench::new();
    let file = exported(&bench, "q8_0");
    let path = format!("model.path={file}");
    let plan = run(&["plan", &bench.config, "--set", &path, "--json"]);
    assert_eq!(plan["refusals"].as_array().map_or(0, Vec::len), 0, "{plan}");
    run(&["train", &bench.config, "--set", &path, "--json"]);
    let config = std::fs::read_to_string(bench.path("run/final/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], file.as_str());

    let (run, merged) = (bench.out(), bench.path("merged").display().to_string());
    let trained = loss(&bench, &[&run]);
    assert!(trained < loss(&bench, &[&file]) - 0.1, "{trained}");
    ft(&["merge", &run, "--dtype", "f32", "--out", &merged]).ok();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(bench.path("merged").join(name).is_file(), "{name}");
    }
    let exact = |model: &str| loss(&bench, &[model, "--dtype", "f32"]);
    let apart = (exact(&merged) - exact(&run)).abs();
    assert!(apart < 1e-4, "{apart}");
    ft(&[
        "train",
        &format!("{run}/config.toml"),
        "--resume",
        "--set",
        "train.steps=8",
        "--plain",
    ])
    .ok();
}

#[test]
fn what_is_wrong_with_it_is_said_by_name() {
    let bench = Bench::new();
    let file = exported(&bench, "q8_0");
    let bytes = std::fs::read(&file).unwrap();
    let cut = bench.path("cut.gguf");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    for verb in [&["inspect"][..], &["generate", "--prompt", "a"], &["chat"]] {
        let done = ft(&[verb, &[cut.to_str().unwrap()]].concat());
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(
            done.stderr.contains("cut.gguf") && done.stderr.contains("beyond the end of the file"),
            "{}",
            done.stderr
        );
    }
}
