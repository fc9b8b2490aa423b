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
    assert!(!bench.path("served").exists());
}
