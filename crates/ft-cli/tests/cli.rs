//! The program as its users meet it: arguments in; stdout, stderr and exit code out. The model is `embedded:tiny`.

mod support;

use std::fs;

use serde_json::Value;
use support::{Bench, Done, ft, json};

#[test]
fn help_and_version_go_to_stdout() {
    let help = ft(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for verb in [
        "train", "plan", "eval", "generate", "chat", "merge", "inspect", "data", "config",
    ] {
        assert!(
            help.stdout.lines().any(|l| l.trim_start().starts_with(verb)),
            "{verb}: {}",
            help.stdout
        );
        assert_eq!(ft(&[verb, "--help"]).code, 0, "{verb}");
    }
    assert!(ft(&["--version"]).stdout.starts_with("ft "));
}

#[test]
fn wrong_use_is_code_2_and_leaves_stdout_alone() {
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["generate", "embedded:tiny"],
        &["generate", "embedded:huge", "--prompt", "x"],
        &["generate", "embedded:tiny", "--prompt", "x", "--device", "tpu"],
        &["train", "--resume"],
        &["eval", "embedded:tiny", "--data", "x.jsonl", "--metric", "beauty"],
    ];
    for args in cases {
        let done = ft(args);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{args:?}: {}", done.stderr);
        assert!(!done.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_device_that_was_not_compiled_in_names_its_feature() {
    if cfg!(feature = "cuda") {
        return;
    }
    let done = ft(&["generate", "embedded:tiny", "--prompt", "x", "--device", "cuda:1"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("--features cuda"), "{}", done.stderr);
}

#[test]
fn errors_are_one_line_with_causes_and_no_backtrace() {
    let bench = Bench::new();
    let missing = ft(&["generate", "no/such/model", "--prompt", "x"]);
    assert_eq!(missing.code, 1);
    assert_eq!(missing.stderr.lines().count(), 1, "{}", missing.stderr);
    assert!(
        missing.stderr.starts_with("error: no such folder"),
        "{}",
        missing.stderr
    );

    let hub = ft(&["inspect", "some-org/some-model", "--offline"]);
    assert_eq!(hub.code, 1);
    assert!(hub.stderr.contains("hf download some-org/some-model"), "{}", hub.stderr);

    // A folder that only looks like an adapter.
    let fake = bench.path("fake");
    fs::create_dir(&fake).unwrap();
    fs::write(
        fake.join("adapter_config.json"),
        r#"{"peft_type": "LORA", "target_modules": ["q_proj"]}"#,
    )
    .unwrap();
    fs::write(
        fake.join("adapter_model.safetensors"),
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
    )
    .unwrap();
    let broken = ft(&[
        "generate",
        "embedded:tiny",
        "--adapter",
        fake.to_str().unwrap(),
        "--prompt",
        "x",
    ]);
    assert_eq!(broken.code, 1);
    assert!(broken.stderr.contains("adapter_model.safetensors"), "{}", broken.stderr);
    for done in [missing, hub, broken] {
        assert!(
            !done.stderr.contains("panicked") && !done.stderr.contains('\x1b'),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn config_check_names_file_line_and_nearest_key() {
    let bench = Bench::new();
    assert_eq!(
        ft(&["config", "check", &bench.config]).stdout,
        format!("{}: ok\n", bench.config)
    );

    let bad = bench.write(
        "bad.toml",
        "[model]\npath = 'x'\n[data]\ntrain = 'x'\n[optim]\nlearning_rate = 1\n[peft]\nrnk = 8\n",
    );
    let done = ft(&["config", "check", &bench.config, &bad]);
    assert_eq!(done.code, 1);
    for part in ["bad.toml:6:1", "`optim.lr`", "bad.toml:8:1", "`peft.rank`"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    let done = ft(&["config", "check", &bad, "--json"]);
    assert_eq!(done.code, 1);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["files"][0]["ok"], false);
    assert_eq!(report["files"][0]["errors"].as_array().unwrap().len(), 2);
}

#[test]
fn config_show_is_a_whole_configuration() {
    let bench = Bench::new();
    let shown = ft(&["config", "show", &bench.config, "--set", "optim.lr=0.5"]).ok();
    assert!(shown.contains("lr = 0.5") && shown.contains("weight_decay"), "{shown}");
    let again = bench.write("again.toml", &shown);
    assert_eq!(ft(&["config", "show", &again]).ok(), shown);

    let schema = json(&["config", "schema"]);
    assert!(schema["properties"]["optim"].is_object() && schema["properties"]["extends"].is_object());
}

#[test]
fn data_preview_marks_what_is_learned() {
    let bench = Bench::new();
    let data = json(&["data", "preview", &bench.config, "--samples", "2", "--json"]);
    let samples = data["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 2);
    for sample in samples {
        let tokens = sample["tokens"].as_array().unwrap();
        let learned = tokens.iter().filter(|t| t["learn"] == true).count() as u64;
        assert_eq!(sample["learned"].as_u64(), Some(learned));
        assert!(learned > 0 && (learned as usize) < tokens.len());
        assert_eq!(tokens.last().unwrap()["learn"], true, "the stop token is learned");
    }
    let share = data["learned_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0);
    assert!(ft(&["data", "preview", &bench.config]).ok().contains("[["));
}

#[test]
fn plan_counts_steps_parameters_and_bytes() {
    let bench = Bench::new();
    let plan = json(&["plan", &bench.config, "--json", "--set", "train.steps=7"]);
    assert_eq!(plan["steps"]["total"], 7);
    let parts = plan["bytes"].as_object().unwrap();
    assert_eq!(
        parts.values().filter_map(Value::as_u64).sum::<u64>(),
        plan["bytes_total"].as_u64().unwrap()
    );
    assert!(plan["trainable"].as_u64().unwrap() < plan["parameters"].as_u64().unwrap());
    let inspected = json(&["inspect", &bench.config, "--json"]);
    assert_eq!(
        (&inspected["kind"], &inspected["trainable"]),
        (&"config".into(), &plan["trainable"])
    );

    let none = ft(&["plan", &bench.config, "--set", "peft.targets=['q_prj']"]);
    assert_eq!(none.code, 1);
    assert!(
        none.stderr.contains("q_proj"),
        "the nearest path is named: {}",
        none.stderr
    );
}

#[test]
fn generate_says_the_same_as_text_and_as_json() {
    let bench = Bench::new();
    let args = [
        "generate",
        "embedded:tiny",
        "--prompt",
        "Once",
        "--temperature",
        "0",
        "--max-new-tokens",
        "12",
    ];
    let object = json(&[&args[..], &["--json"]].concat());
    assert_eq!(ft(&args).ok(), format!("{}\n", object["text"].as_str().unwrap()));
    assert!(object["tokens"].as_array().unwrap().len() <= 12);
    assert!(["stop", "length"].contains(&object["finish_reason"].as_str().unwrap()));
    assert!(object["tokens_per_s"].as_f64().unwrap() > 0.0);

    // Prompts of different lengths together get what they get alone.
    let file = bench.write(
        "prompts.jsonl",
        "{\"prompt\": \"Once\"}\n{\"prompt\": \"The key of the house was\"}\n",
    );
    let many = json(&[
        "generate",
        "embedded:tiny",
        "--prompts",
        &file,
        "--temperature",
        "0",
        "--max-new-tokens",
        "12",
        "--json",
    ]);
    let many = many["generations"].as_array().unwrap();
    assert_eq!((many.len(), &many[0]["tokens"]), (2, &object["tokens"]));

    let sampled = |seed| {
        json(
            &[
                &args[..4],
                &["--temperature", "1", "--max-new-tokens", "12", "--seed", seed, "--json"],
            ]
            .concat(),
        )
    };
    assert_eq!(sampled("1")["tokens"], sampled("1")["tokens"]);
}

#[test]
fn eval_reports_sums_per_target_token() {
    let bench = Bench::new();
    let eval = |batch| {
        json(&[
            "eval",
            "embedded:tiny",
            "--data",
            &bench.valid,
            "--batch",
            batch,
            "--json",
        ])
    };
    let (one, many) = (eval("1"), eval("7"));
    assert_eq!((&one["tokens"], &one["samples"]), (&many["tokens"], &20.into()));
    let loss = |report: &Value| report["loss"].as_f64().unwrap();
    assert!((loss(&one) - loss(&many)).abs() < 1e-5, "{one} {many}");
    assert!((loss(&one).exp() / one["perplexity"].as_f64().unwrap() - 1.0).abs() < 1e-9);

    let bad = bench.write(
        "bad.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 1\n",
    );
    let done = ft(&["eval", "embedded:tiny", "--data", &bad]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("bad.jsonl:2"), "{}", done.stderr);
}

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
