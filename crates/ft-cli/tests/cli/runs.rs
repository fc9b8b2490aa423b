//! Training runs, what becomes of them, and what a signal does to them.

use serde_json::Value;

#[cfg(unix)]
use crate::support::ENDLESS;
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
    let mut run = bench.start(&[&["train", &bench.config], &ENDLESS[..]].concat());
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

/// A scheduler leaves 30 seconds: neither a long step nor a long evaluation may take them all.
#[test]
#[cfg(unix)]
fn a_signal_does_not_wait_for_a_long_step_or_evaluation() {
    let bench = Bench::new();
    let train = format!("data.train={}", bench.samples("many.jsonl", 6000));
    let sets = ["train", &bench.config, "--set", &train, "--set", "train.batch_size=1"];
    let mut run = bench.start(&[&sets[..], &["--set", "train.accumulation=6000"]].concat());
    // The evaluation before the first step is made, and the step takes thousands of forward passes.
    bench.wait_for("\"eval_loss\"", 1);
    run.signal("TERM");
    let stopped = run.end();
    assert_eq!(stopped.code, 143, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("before the first step"), "{}", stopped.stderr);

    let bench = Bench::new();
    let valid = format!("data.valid={}", bench.samples("many.jsonl", 6000));
    let sets = [
        "train",
        &bench.config,
        "--set",
        &valid,
        "--set",
        "eval.at_start=false",
        "--set",
        "eval.batch_size=1",
        "--set",
        "train.eval_every=2",
        "--set",
        "train.log_every=1",
    ];
    let mut run = bench.start(&sets);
    bench.wait_for_steps(2);
    run.signal("TERM");
    let stopped = run.end();
    assert_eq!(stopped.code, 143, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("stopped after step 2"), "{}", stopped.stderr);
    let metrics = std::fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap();
    assert!(!metrics.contains("eval_loss"), "it was cut short: {metrics}");
    // And made up for.
    let few = format!("data.valid={}", bench.valid);
    let config = format!("{}/config.toml", bench.out());
    ft(&["train", &config, "--resume", "--set", &few]).ok();
    let metrics = std::fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap();
    let evaluated = metrics.lines().filter(|line| line.contains("eval_loss"));
    let steps: Vec<Value> = evaluated
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].clone())
        .collect();
    assert_eq!(steps, [2, 4, 6]);
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_a_run_at_once() {
    let bench = Bench::new();
    let endless = [&["train", &bench.config], &ENDLESS[..]].concat();
    let mut run = bench.start(&[&endless[..], &["--set", "train.save_every=100000"]].concat());
    bench.wait_for_steps(3);
    // Both wait until the process runs again, so that no step can end in between.
    for signal in ["STOP", "TERM", "INT", "CONT"] {
        run.signal(signal);
    }
    let ended = run.end();
    assert!([130, 143].contains(&ended.code), "{}: {}", ended.code, ended.stderr);
    assert!(
        !ended.stderr.contains("stopped after"),
        "no time to save: {}",
        ended.stderr
    );
    // Without a checkpoint it can be started over.
    let left = std::fs::read_dir(bench.path("run/checkpoints")).unwrap().count();
    assert_eq!(left, 0);
    ft(&["train", &bench.config]).ok();
}

#[test]
#[cfg(target_os = "linux")]
fn a_step_that_takes_more_than_the_limit_halves_the_next() {
    let bench = Bench::new();
    let train = format!("data.train={}", bench.samples("many.jsonl", 512));
    let fit = |size: usize, memory: Option<u64>| {
        let (size, out) = (
            format!("train.batch_size={size}"),
            bench.path(&format!("run-{size}-{memory:?}")),
        );
        let out = format!("train.out={}", out.display());
        let limit = format!("train.memory={}B", memory.unwrap_or(0));
        let mut args = vec!["train", &bench.config, "--json"];
        for set in [
            &train,
            &size,
            &out,
            "eval.samples=0",
            "eval.batch_size=4",
            "train.steps=4",
            "eval.at_start=false",
        ] {
            args.extend(["--set", set]);
        }
        if memory.is_some() {
            args.extend(["--set", &limit]);
        }
        json(&args)
    };
    let peak = |run: &Value| run["peak_memory_bytes"].as_u64().unwrap();
    let (large, small) = (fit(256, None), fit(8, None));
    let (most, least) = (peak(&large), peak(&small));
    assert!(most > least + (64 << 20), "256 samples take {most}, 8 take {least}");
    assert!(large["micro_batch"].is_null());
    let limited = fit(256, Some((most + least) / 2));
    let size = limited["micro_batch"].as_u64().unwrap_or_else(|| panic!("{limited}"));
    assert!((8..256).contains(&size), "{size}");
    // The first step is the largest: it alone passes the limit, unless what it freed stays with the process.
    assert!(peak(&limited) <= most + (32 << 20), "{} beside {most}", peak(&limited));
    let loss = |run: &Value| run["after"]["loss"].as_f64().unwrap();
    assert!(
        (loss(&limited) - loss(&large)).abs() < 1e-4,
        "{} and {}",
        loss(&limited),
        loss(&large)
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
