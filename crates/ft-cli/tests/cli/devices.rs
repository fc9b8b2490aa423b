//! `--device` with several devices: the CPU takes several ranks in one process.

use std::fs;

use serde_json::Value;

use crate::support::{Bench, ENDLESS, ft, json};

const SETS: &str = "train.accumulation=2 peft.dropout=0 optim.eps=1e-3 train.log_every=1 eval.samples=2";

fn train<'a>(bench: &'a Bench, device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let sets = SETS.split(' ').flat_map(|set| ["--set", set]);
    let own = ["train", bench.config.as_str(), "--device", device];
    own.into_iter().chain(sets).chain(more.iter().copied()).collect()
}

fn losses(bench: &Bench) -> Vec<f64> {
    let text = fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn several_take_the_steps_of_one() {
    let (alone, two) = (Bench::new(), Bench::new());
    let one = json(&train(&alone, "cpu", &["--json"]));
    let both = json(&train(&two, "cpu:0,cpu:1", &["--json"]));
    assert_eq!(one["steps"], both["steps"]);
    let (one, both) = (losses(&alone), losses(&two));
    assert!(one.len() == 6 && both.len() == 6);
    for (x, y) in one.iter().zip(&both) {
        assert!((x - y).abs() <= 1e-5 * x.max(1.0), "{one:?} {both:?}");
    }
    assert!(two.path("run/final/adapter_model.safetensors").exists());
    let config = fs::read_to_string(two.path("run/config.toml")).unwrap();
    assert!(config.contains("cpu:0,cpu:1"), "{config}");
}

#[test]
fn a_signal_saves_and_one_device_goes_on() {
    let bench = Bench::new();
    let mut run = bench.start(&train(&bench, "cpu:0,cpu:1", &ENDLESS));
    bench.wait_for_steps(3);
    run.signal("TERM");
    let done = run.end();
    assert_eq!(done.code, 143, "{}", done.stderr);
    assert_eq!(done.stderr.matches("stopped after step").count(), 1, "{}", done.stderr);
    let steps: Vec<_> = fs::read_dir(bench.path("run/checkpoints")).unwrap().collect();
    assert_eq!(steps.len(), 1, "{steps:?}");
    let last = losses(&bench).len();
    let until = format!("train.steps={}", last + 2);
    let done = ft(&train(
        &bench,
        "cpu",
        &["--resume", "--set", &until, "--set", "train.log_every=1"],
    ));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(losses(&bench).len(), last + 2);
}

#[test]
fn sets_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    for (device, part) in [
        ("cpu:0,cpu:0", "named twice"),
        ("cpu:all", "cpu:0,cpu:1"),
        ("cuda:0,cuda:1", "--features cuda"),
    ] {
        let done = ft(&train(&bench, device, &[]));
        assert!(
            done.code == 2 && done.stderr.contains(part),
            "{device}: {}",
            done.stderr
        );
    }
    // Other verbs compute on one device.
    let done = ft(&[
        "eval",
        "embedded:tiny",
        "--data",
        &bench.valid,
        "--device",
        "cpu:0,cpu:1",
    ]);
    assert_eq!(done.code, 2, "{}", done.stderr);
}
