//! Help, wrong use, errors, configurations, data and plans: what happens before anything is computed.

use std::fs;

use serde_json::Value;

use crate::support::{Bench, Done, ft, json};

#[test]
fn help_and_version_go_to_stdout() {
    let help = ft(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for verb in [
        "train", "plan", "eval", "generate", "chat", "merge", "quantize", "inspect", "data", "config",
    ] {
        assert!(
            help.stdout.lines().any(|l| l.trim_start().starts_with(verb)),
            "{verb}: {}",
            help.stdout
        );
        assert_eq!(ft(&[verb, "--help"]).code, 0, "{verb}");
    }
    let eval = ft(&["eval", "--help"]).stdout;
    for name in ["unpaired-preference", "rougeLsum", "matthews"] {
        assert!(eval.contains(name), "{name}: {eval}");
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
fn augment_writes_what_training_takes() {
    let bench = Bench::new();
    let section = "[data.augment]\ncopies = 3\noperators = [{ kind = 'swap' }, { kind = 'templates', templates = ['Say: {text}'] }]\n";
    let text = bench.text.replace("valid = 'valid.jsonl'\n", "valid_split = 0.2\n") + section;
    let config = bench.write("augment.toml", &text);
    let file = bench.path("made.jsonl").display().to_string();
    let summary = json(&["data", "augment", &config, "--out", &file, "--json"]);
    let rows = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (summary["made"].as_u64(), summary["samples"].as_u64()),
        (Some(rows.len() as u64), Some(48))
    );
    let records = std::fs::read_to_string(bench.path("train.jsonl")).unwrap();
    let records: Vec<&str> = records.lines().collect();
    for row in &rows {
        let line = row["source"]["place"].as_str().unwrap().strip_prefix("line ").unwrap();
        let record: Value = serde_json::from_str(records[line.parse::<usize>().unwrap() - 1]).unwrap();
        assert_eq!(row["completion"], record["completion"]);
        assert_ne!(row["prompt"], record["prompt"]);
        assert!(row["source"]["file"].as_str().unwrap().ends_with("train.jsonl"));
    }
    let plan = json(&["plan", &config, "--json"]);
    let counted = ["made", "samples"].map(|key| plan["data"]["train"][key].as_u64().unwrap() as usize);
    assert_eq!(counted, [rows.len(), 48 + rows.len()]);
    assert_eq!(plan["data"]["valid"]["samples"], 12, "no held-out record is made from");
    assert!(ft(&["plan", &config]).ok().contains("of them made from the others"));
    let refused = ft(&["data", "augment", &config, "--out", &file]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    let none = ft(&["data", "augment", &bench.config, "--out", "x.jsonl"]);
    assert!(none.stderr.contains("no section [data.augment]"), "{}", none.stderr);
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

    let quickstart = json(&["plan", "--json"]);
    assert_eq!(quickstart["method"], "lora", "without CONFIG, what `ft train` would do");
    let none = ft(&["plan", &bench.config, "--set", "peft.targets=['q_prj']"]);
    assert_eq!(none.code, 1);
    assert!(
        none.stderr.contains("q_proj"),
        "the nearest path is named: {}",
        none.stderr
    );
}

#[test]
fn a_plan_is_whole_where_something_stands_in_the_way() {
    let bench = Bench::new();
    let huge = ["train.steps=1000000000", "train.save_every=1", "train.keep=1000000000"];
    let sets = huge.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["plan", &bench.config].into_iter().chain(sets).collect();
    let plan = ft(&args);
    assert_eq!(plan.code, 1);
    assert!(
        plan.stdout.contains("\nmemory") && plan.stdout.contains("\ndisk"),
        "{}",
        plan.stdout
    );
    assert!(plan.stderr.contains("on the disk"), "{}", plan.stderr);
    let plan = ft(&[&args[..], &["--json"]].concat());
    assert_eq!(plan.code, 1);
    let object: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(object["refusals"].as_array().map(Vec::len), Some(1), "{object}");
}

/// People plan before they rent, from what a model's page shows: no weights, another device.
#[cfg(feature = "embedded")]
#[test]
fn a_plan_is_made_for_a_device_that_is_not_here() {
    let bench = Bench::new();
    let bare = bench.path("bare");
    ft_embedded::unpack(&bare).unwrap();
    fs::remove_file(bare.join("model.safetensors")).unwrap();
    let model = format!("model.path={}", bare.display());
    let args = ["plan", &bench.config, "--set", &model];

    let with = |more: &[&str]| ft(&[&args[..], more].concat());
    let object = |plan: &Done| -> Value { serde_json::from_str(&plan.stdout).unwrap() };
    let fits = with(&["--for", "cuda", "--memory", "24GB", "--json"]);
    assert_eq!(fits.code, 0, "{}", fits.stderr);
    let plan = object(&fits);
    assert_eq!(
        (&plan["device"], &plan["fits"]),
        (&"cuda".into(), &true.into()),
        "{plan}"
    );
    assert_eq!(plan["bytes"]["runtime"], 0, "the program is in the host's memory");
    assert_eq!(plan["disk"]["available"], Value::Null, "{plan}");

    let small = object(&with(&["--for", "cuda", "--memory", "1MB", "--json"]));
    assert_eq!(small["fits"], false, "{small}");
    let unknown = object(&with(&["--for", "cuda", "--json"]));
    assert_eq!(unknown["fits"], Value::Null, "{unknown}");

    let here = with(&["--device", "cpu"]);
    assert!(
        here.code == 1 && here.stderr.contains("holds no weights (model.safetensors"),
        "{}",
        here.stderr
    );
    let other = with(&["--for", "tpu"]);
    assert!(other.code == 2 && other.stderr.contains("vulkan"), "{}", other.stderr);
}

#[test]
fn a_quantized_model_is_a_model() {
    let bench = Bench::new();
    let out = bench.path("quantized").display().to_string();
    let quantize = ["quantize", "embedded:tiny", "--kind", "nf4", "--double", "--out", &out];
    let report = json(&[&quantize[..], &["--json"]].concat());
    let bytes = |key: &str| report[key].as_u64().unwrap();
    assert!(0 < bytes("bytes") && bytes("bytes") < bytes("bytes_before"), "{report}");
    let loss = |model: &str| {
        json(&["eval", model, "--data", &bench.valid, "--json"])["loss"]
            .as_f64()
            .unwrap()
    };
    let (plain, quantized) = (loss("embedded:tiny"), loss(&out));
    assert!(
        plain != quantized && (plain - quantized).abs() < 0.2 * plain,
        "{plain} {quantized}"
    );

    assert_eq!(ft(&quantize).code, 2, "the folder exists");
    let odd = ft(&[
        "quantize",
        "embedded:tiny",
        "--kind",
        "nf4",
        "--block",
        "48",
        "--out",
        "x",
    ]);
    assert!(odd.code == 2 && odd.stderr.contains("block size 48"), "{}", odd.stderr);
    let twice = ft(&["quantize", &out, "--kind", "int8", "--out", "x"]);
    assert!(
        twice.code == 1 && twice.stderr.contains("quantized already"),
        "{}",
        twice.stderr
    );
}

/// Bytes and time by the formula of `ft plan --ranks`, whatever the number of processes.
#[test]
fn a_plan_over_processes_says_what_they_take_send_and_come_to() {
    let bench = crate::support::Bench::new();
    let plan = |more: &[&str]| {
        let args = ["plan", &bench.config, "--device", "cpu", "--json", "--ranks", "1024"];
        crate::support::json(&[&args[..], more].concat())
    };
    let network = ["--bandwidth", "1GB/s", "--latency", "10us", "--tokens-per-s", "1000"];
    let found = plan(&network);
    let ranks = found["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 11);
    let trainable = found["trainable"].as_u64().unwrap();
    for (power, of) in ranks.iter().enumerate() {
        let n = 1u64 << power;
        assert_eq!(of["ranks"], n);
        assert_eq!(of["sent_bytes"], 8 * trainable * (n - 1) / n);
        let each = if 4 * trainable / n > 64 << 10 { 3 } else { 1 };
        let messages = 3 * 2 * power as u64 + 2 * (n - 1) * each;
        let seconds = if n == 1 {
            0.0
        } else {
            messages as f64 * 1e-5 + of["sent_bytes"].as_f64().unwrap() / 1e9
        };
        assert!((of["message_seconds"].as_f64().unwrap() - seconds).abs() < 1e-9, "{of}");
        // Smaller passes have less padding.
        assert!(of["efficiency"].as_f64().unwrap() < 1.2, "{of}");
    }
    assert_eq!(ranks[0]["efficiency"], 1.0);
    // Four samples in a step: 1,024 processes have nothing to share.
    assert!(ranks[10]["busiest"].as_f64().unwrap() >= 0.25);
    let shared = plan(&[&network[..], &["--set", "train.shard_optimizer=true"]].concat());
    // What the process takes before it does anything is measured, and never twice the same.
    let runtime = |plan: &serde_json::Value| plan["bytes"]["runtime"].as_u64().unwrap();
    let memory = |plan: &serde_json::Value| plan["ranks"][3]["memory_bytes"].as_u64().unwrap() - runtime(plan);
    assert!(memory(&shared) < memory(&found));
    let wrong = crate::support::ft(&["plan", &bench.config, "--ranks", "2000"]);
    assert!(
        wrong.code != 0 && wrong.stderr.contains("--ranks 2000"),
        "{}",
        wrong.stderr
    );
}
