//! Adapters in AdapterHub's layout, wherever an adapter can be named.

use crate::support::{Bench, ft, json};

#[test]
fn a_bottleneck_goes_everywhere_but_into_the_weights() {
    let bench = Bench::new();
    let trained = json(&[
        "train",
        &bench.config,
        "--json",
        "--set",
        "peft.method=houlsby",
        "--set",
        "optim.lr=5e-3",
    ]);
    let loss = |score: &str| trained[score]["loss"].as_f64().unwrap();
    assert!(loss("after") < loss("before"), "{trained}");
    let adapter = bench.path("run/final").display().to_string();

    let inspected = json(&["inspect", &adapter, "--json"]);
    assert_eq!(inspected["method"], "houlsby");
    assert_eq!(inspected["reduction_factor"], 16);
    assert_eq!(inspected["parameters"], trained["trainable"]);
    assert_eq!(inspected["base_parameters"].as_u64().map(|n| n > 0), Some(true));
    let page = ft(&["inspect", &adapter]).ok();
    assert!(
        page.contains("houlsby, reduction factor 16") && page.contains("attention_adapters"),
        "{page}"
    );
    let checkpoints = json(&["inspect", &bench.out(), "--json"]);
    assert_eq!(checkpoints["state"], "finished");

    let eval = |args: &[&str]| {
        let args = [&["eval"], args, &["--data", &bench.valid, "--json"]].concat();
        json(&args)["loss"].as_f64().unwrap()
    };
    let whole = eval(&[&bench.out()]);
    assert!((whole - loss("after")).abs() < 1e-5, "{whole} {trained}");
    assert!((whole - eval(&["embedded:tiny", "--adapter", &adapter])).abs() < 1e-6);
    assert!((whole - eval(&["embedded:tiny"])).abs() > 1e-2);
    let answer = ft(&[
        "generate",
        "embedded:tiny",
        "--adapter",
        &adapter,
        "--prompt",
        "a",
        "--max-new-tokens",
        "3",
    ]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);

    let out = bench.path("merged").display().to_string();
    let refused = ft(&["merge", &bench.out(), "--out", &out]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("cannot be merged") && refused.stderr.contains("--adapter"),
        "{}",
        refused.stderr
    );
    assert!(!bench.path("merged").exists());
    let refused = ft(&["export", &bench.out(), "--for", "vllm", "--out", &out]);
    assert_eq!(refused.code, 1);
    assert!(!refused.stderr.contains("ft merge"), "{}", refused.stderr);
}
