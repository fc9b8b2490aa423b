//! `ft advise`, from the model and the data to a configuration, and on a run.

use crate::support::{Bench, ft, json};

#[test]
fn advice_is_ranked_and_its_configuration_runs() {
    let bench = Bench::new();
    let data = bench.path("train.jsonl").display().to_string();
    let out = bench.path("advised.toml").display().to_string();
    let advised = json(&["advise", "embedded:tiny", "--data", &data, "--out", &out, "--json"]);
    assert_eq!(
        (&advised["choice"]["method"], &advised["choice"]["quant"]),
        (&"lora".into(), &serde_json::Value::Null)
    );
    let ranked = advised["ranked"].as_array().unwrap();
    assert!(ranked.len() > 8);
    for technique in ranked {
        assert!(technique["memory_bytes"].as_u64().unwrap() > 0 && !technique["reason"].as_str().unwrap().is_empty());
    }
    assert_eq!(
        std::fs::read_to_string(&out).unwrap(),
        advised["config"].as_str().unwrap()
    );
    let run = bench.path("advised").display().to_string();
    ft(&[
        "train",
        &out,
        "--set",
        "train.steps=3",
        "--set",
        &format!("train.out={run}"),
    ])
    .ok();
    let looked = json(&["advise", &run, "--json"]);
    assert!(looked["troubles"].is_array());
    let several = json(&["advise", "embedded:tiny", "--data", &data, "--data", &data, "--json"]);
    assert_eq!(
        (&several["choice"]["method"], several["facts"]["tasks"].as_u64()),
        (&"pfeiffer".into(), Some(2))
    );
    let text = ft(&[
        "advise",
        "embedded:tiny",
        "--data",
        &data,
        "--memory",
        "8GB",
        "--goal",
        "interpretability",
    ])
    .ok();
    assert!(
        text.contains("prompt-tuning") && text.contains("cuda with 8.0 GB") && text.contains("[peft]"),
        "{text}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let none = ft(&["advise", "embedded:tiny"]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("--data: missing"), "{}", none.stderr);
    let wrong = ft(&["advise", "embedded:tiny", "--data", "x.jsonl", "--goal", "fame"]);
    assert!(
        wrong.code == 2 && wrong.stderr.contains("interpretability"),
        "{}",
        wrong.stderr
    );
    let absent = ft(&["advise", "embedded:tiny", "--data", "nowhere.jsonl"]);
    assert!(
        absent.code == 1 && absent.stderr.contains("nowhere.jsonl"),
        "{}",
        absent.stderr
    );
}
