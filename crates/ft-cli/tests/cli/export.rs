//! Adapters and models for other programs.

use crate::support::{Bench, ft, json};

#[test]
fn an_adapter_for_vllm_is_the_same_adapter() {
    let bench = Bench::new();
    json(&["train", &bench.config, "--json", "--set", "peft.rslora=true"]);
    let out = bench.path("served").display().to_string();
    let report = json(&["export", &bench.out(), "--for", "vllm", "--out", &out, "--json"]);
    assert_eq!(
        (report["rank"].as_u64(), report["max_lora_rank"].as_u64()),
        (Some(4), Some(8))
    );
    let command = report["command"].as_str().unwrap();
    assert!(
        command.contains("--enable-lora --max-lora-rank 8 --lora-modules served=/"),
        "{command}"
    );
    let loss = |adapter: &str| {
        json(&[
            "eval",
            "embedded:tiny",
            "--adapter",
            adapter,
            "--data",
            &bench.valid,
            "--json",
        ])["loss"]
            .as_f64()
            .unwrap()
    };
    assert!((loss(&out) - loss(&bench.out())).abs() < 1e-6);
    assert_eq!(ft(&["export", &bench.out(), "--for", "vllm", "--out", &out]).code, 2);
}

#[test]
fn llama_cpp_gets_the_adapter_or_one_model() {
    let bench = Bench::new();
    json(&["train", &bench.config, "--json"]);
    let write = |name: &str, args: &[&str]| {
        let out = bench.path(name).display().to_string();
        let report = json(&[&["export"], args, &["--for", "llama.cpp", "--out", &out, "--json"]].concat());
        (report, std::fs::read(out).unwrap())
    };
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());

    let (report, adapter) = write("adapter.gguf", &[&bench.out()]);
    assert_eq!((&report["rank"], &report["dtype"]), (&4.into(), &"f32".into()));
    assert!(report["command"].as_str().unwrap().contains("--lora"));
    assert!(has(&adapter, "adapter.lora.alpha") && has(&adapter, "blk.0.attn_q.weight.lora_a"));

    let (report, merged) = write("merged.gguf", &[&bench.out(), "--merge", "--dtype", "q8_0"]);
    assert_eq!(report["dtype"], "q8_0");
    let (_, base) = write("base.gguf", &["embedded:tiny", "--dtype", "q8_0"]);
    assert!(has(&base, "tokenizer.ggml.merges") && has(&base, "blk.3.ffn_down.weight"));
    // The same file but for the values and its name.
    assert!(merged.len().abs_diff(base.len()) <= 32);
    assert_ne!(merged[merged.len() - 10_000..], base[base.len() - 10_000..]);

    let out = bench.path("ollama").display().to_string();
    let asked = [
        "export",
        &bench.out(),
        "--for",
        "ollama",
        "--out",
        &out,
        "--dtype",
        "q8_0",
        "--json",
    ];
    assert!(json(&asked)["command"].as_str().unwrap().starts_with("ollama create"));
    let model = std::fs::read(bench.path("ollama").join("model.gguf")).unwrap();
    assert_eq!(model[model.len() - 10_000..], merged[merged.len() - 10_000..]);
    let modelfile = std::fs::read_to_string(bench.path("ollama").join("Modelfile")).unwrap();
    assert!(
        modelfile.starts_with("FROM ./model.gguf\n") && modelfile.contains("PARAMETER stop "),
        "{modelfile}"
    );
    let refused = ft(&[
        "export",
        &bench.out(),
        "--for",
        "llama.cpp",
        "--out",
        "x.gguf",
        "--dtype",
        "q4_k_m",
    ]);
    assert!(
        refused.code == 2 && refused.stderr.contains("q4_k_m is for models"),
        "{}",
        refused.stderr
    );

    let nothing = ft(&[
        "export",
        "embedded:tiny",
        "--for",
        "llama.cpp",
        "--merge",
        "--out",
        "x.gguf",
    ]);
    assert_eq!(nothing.code, 2, "{}", nothing.stderr);
}

#[test]
fn what_a_server_cannot_read_is_refused_with_the_way_out() {
    let bench = Bench::new();
    json(&["train", &bench.config, "--json", "--set", "peft.dora=true"]);
    let out = bench.path("served").display().to_string();
    let refused = ft(&["export", &bench.out(), "--for", "vllm", "--out", &out]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("DoRA"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("instead: ") && refused.stderr.contains("ft merge"),
        "{}",
        refused.stderr
    );
    let refused = ft(&["export", &bench.out(), "--for", "llama.cpp", "--out", &out]);
    assert!(
        refused.stderr.contains("instead: ") && refused.stderr.contains("--merge"),
        "{}",
        refused.stderr
    );
    assert!(!bench.path("served").exists());
    // Merged it is one model like any other.
    ft(&["export", &bench.out(), "--for", "llama.cpp", "--merge", "--out", &out]).ok();
}

#[test]
fn what_cannot_be_one_model_or_is_one_already_is_told() {
    let out_of = |bench: &Bench, name: &str| bench.path(name).display().to_string();
    let refused = |args: &[&str], why: &str| {
        let done = ft(args);
        assert!(done.code != 0 && done.stderr.contains(why), "{args:?}: {}", done.stderr);
    };
    let bench = Bench::new();
    json(&["train", &bench.config, "--json", "--set", "peft.method=pfeiffer"]);
    let (run, out) = (bench.out(), out_of(&bench, "served"));
    for server in ["vllm", "llama.cpp"] {
        let export = ["export", &run, "--for", server, "--out", &out];
        refused(&export, "it cannot be merged either: run it here");
    }

    let bench = Bench::new();
    json(&["train", &bench.config, "--json", "--set", "peft.lora_bias=true"]);
    let (run, out) = (bench.out(), out_of(&bench, "merged"));
    refused(
        &["merge", &run, "--out", &out],
        "checkpoints of llama models have none here",
    );
    assert!(!bench.path("merged").exists());

    let bench = Bench::new();
    json(&["train", &bench.config, "--json", "--set", "peft.method=full"]);
    let (run, out) = (bench.out(), out_of(&bench, "served"));
    refused(
        &["export", &run, "--for", "vllm", "--out", &out],
        "needs no export: vllm serve",
    );
    refused(&["merge", &run, "--out", &out], "is a whole model");
}
