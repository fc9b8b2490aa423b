//! Training runs, what becomes of them, and what a signal does to them.

use serde_json::Value;

use crate::support::{Bench, Done, ft, json};

#[test]
fn a_run_from_training_to_merging() {
    let bench = Bench::new();
    let trained = json(&["train", &bench.config, "--json"]);
    assert_eq!((&trained["ending"], &trained["steps"]), (&"finished".into(), &6.into()));
    let loss = |score: &str| trained[score]["loss"].as_f64().unwrap();
    assert!(loss("after") < loss("before"), "{trained}");
    let out = bench.out();
    for file in [
        "config.toml",
        "metrics.jsonl",
        "report.html",
        "report.json",
        "final/adapter_config.json",
        "final/tokenizer.json",
    ] {
        assert!(bench.path("run").join(file).is_file(), "{file}");
    }

    // The folder is taken now.
    let again = ft(&["train", &bench.config]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("--resume"), "{}", again.stderr);

    let run = json(&["inspect", &out, "--json"]);
    assert_eq!(
        (&run["kind"], &run["state"], &run["step"]),
        (&"run".into(), &"finished".into(), &6.into())
    );
    let adapter = json(&["inspect", &format!("{out}/final"), "--json"]);
    assert_eq!((&adapter["method"], &adapter["rank"]), (&"lora".into(), &4.into()));
    assert_eq!(adapter["parameters"], trained["trainable"]);
    assert!(
        adapter["sites"]
            .as_array()
            .unwrap()
            .iter()
            .all(|s| s["norms"]["lora_B"].as_f64().unwrap() > 0.0)
    );

    // Run, base + adapter, and the merged checkpoint are one model.
    let merged = bench.path("merged").display().to_string();
    let report = json(&[
        "merge",
        "embedded:tiny",
        "--adapter",
        &out,
        "--out",
        &merged,
        "--dtype",
        "f32",
        "--json",
    ]);
    assert_eq!(report["verified"], true);
    assert!(report["max_difference"].as_f64().unwrap() < 1e-3, "{report}");
    let eval = |args: &[&str]| {
        json(&[&["eval"], args, &["--data", &bench.valid, "--json"]].concat())["loss"]
            .as_f64()
            .unwrap()
    };
    let whole = eval(&[&out]);
    assert!((whole - loss("after")).abs() < 1e-5, "{whole} {trained}");
    assert!((whole - eval(&["embedded:tiny", "--adapter", &format!("{out}/final")])).abs() < 1e-6);
    assert!((whole - eval(&[&merged])).abs() < 1e-5);
    assert!((whole - eval(&["embedded:tiny"])).abs() > 1e-2);

    // Another run goes on from this one's adapter.
    let next = bench.write(
        "next.toml",
        &bench
            .text
            .replace("method = 'lora'\nrank = 4", "from = 'run'")
            .replace("/run'", "/next'"),
    );
    let next = json(&["train", &next, "--json"]);
    assert!(
        (next["before"]["loss"].as_f64().unwrap() - whole).abs() < 1e-5,
        "{next}"
    );

    let taken = ft(&["merge", "embedded:tiny", "--adapter", &out, "--out", &merged]);
    assert_eq!(taken.code, 2, "{}", taken.stderr);
    let twice = ft(&["merge", &out, "--adapter", &out, "--out", "x"]);
    assert!(twice.stderr.contains("already brings"), "{}", twice.stderr);
}

#[test]
#[cfg(unix)]
fn a_signal_saves_and_the_run_goes_on_from_there() {
    let bench = Bench::new();
    let mut run = bench.start(&[
        "train",
        &bench.config,
        "--set",
        "train.steps=100000",
        "--set",
        "train.log_every=1",
    ]);
    bench.wait_for_steps(3);
    run.signal("TERM");
    let stopped = run.end();
    assert_eq!(stopped.code, 143, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("--resume"), "{}", stopped.stderr);
    let state = json(&["inspect", &bench.out(), "--json"]);
    assert_eq!(state["state"], "unfinished");
    let step = state["checkpoints"].as_array().unwrap().last().unwrap()["step"]
        .as_u64()
        .unwrap();
    assert!(step >= 3);

    let config = format!("{}/config.toml", bench.out());
    let steps = format!("train.steps={}", step + 2);
    let resumed: Done = ft(&["train", &config, "--resume", "--json", "--set", &steps]);
    assert!(
        resumed.stderr.contains(&format!("resumed after step {step}")),
        "{}",
        resumed.stderr
    );
    let outcome: Value = serde_json::from_str(&resumed.ok()).unwrap();
    assert_eq!(
        (&outcome["ending"], outcome["steps"].as_u64()),
        (&"finished".into(), Some(step + 2))
    );
}

#[test]
fn a_run_over_codes_is_evaluated_and_merged_as_it_was_trained() {
    let bench = Bench::new();
    let config = bench.write(
        "run.toml",
        &bench
            .text
            .replace("[peft]", "quant = { kind = 'nf4', double = true }\n[peft]"),
    );
    let plan = json(&["plan", &config, "--json"]);
    let plain = json(&[
        "plan",
        &config,
        "--json",
        "--set",
        "model.quant.kind=int8",
        "--set",
        "model.quant.double=false",
    ]);
    assert!(plan["bytes"]["weights"].as_u64() < plain["bytes"]["weights"].as_u64());
    let trained = json(&["train", &config, "--json"]);
    let after = trained["after"]["loss"].as_f64().unwrap();
    let (out, merged) = (bench.out(), bench.path("merged").display().to_string());

    let eval = |args: &[&str]| {
        json(&[&["eval"], args, &["--data", &bench.valid, "--json"]].concat())["loss"]
            .as_f64()
            .unwrap()
    };
    let last = format!("{out}/checkpoints/step-6");
    for model in [&[&*out][..], &[&last], &["embedded:tiny", "--adapter", &out]] {
        let loss = eval(model);
        assert!((loss - after).abs() < 1e-5, "{model:?}: {loss}, {after} after training");
    }
    for what in [&out, &format!("{out}/final"), &last] {
        let found = json(&["inspect", what, "--json"]);
        assert_eq!(found["quant"]["kind"], "nf4", "{what}: {found}");
    }
    ft(&["generate", &out, "--prompt", "Who has key 3? ", "--max-new-tokens", "4"]).ok();

    // Unpacked exactly, added in f32, written in 16 bits and read back.
    let report = json(&["merge", &out, "--out", &merged, "--json"]);
    assert_eq!((&report["dtype"], &report["verified"]), (&"bf16".into(), &true.into()));
    assert!(report["max_difference"].as_f64().unwrap() < 1e-3, "{report}");
    assert_eq!(json(&["inspect", &merged, "--json"])["quant"], Value::Null);
    assert!((eval(&[&merged]) - after).abs() < 2e-2);
    let whole = bench.path("whole").display().to_string();
    json(&["merge", &out, "--out", &whole, "--dtype", "f32", "--json"]);
    assert!((eval(&[&whole]) - after).abs() < 1e-5);

    let packed = bench.path("packed").display().to_string();
    ft(&["quantize", "embedded:tiny", "--kind", "int8", "--out", &packed]).ok();
    let twice = ft(&[
        "quantize",
        &packed,
        "--kind",
        "nf4",
        "--out",
        &merged.replace("merged", "twice"),
    ]);
    assert!(twice.stderr.contains("quantized already, as int8"), "{}", twice.stderr);
    let other = ft(&["eval", &packed, "--adapter", &out, "--data", &bench.valid]);
    assert!(
        other.stderr.contains("quantized already, as int8, and not as nf4"),
        "{}",
        other.stderr
    );
}
