//! `ft data stats`, `check`, `dedup`, `split` and `convert`.

use serde_json::Value;

use crate::support::{Bench, ft, json};

#[test]
fn stats_count_both_parts() {
    let bench = Bench::new();
    let stats = json(&["data", "stats", &bench.config, "--json"]);
    for (part, samples) in [("train", 60), ("valid", 20)] {
        let part = &stats[part];
        assert_eq!(
            (part["samples"].as_u64(), part["repeated_prompts"].as_u64()),
            (Some(samples), Some(0))
        );
        let binned: u64 = part["histogram"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b["samples"].as_u64().unwrap())
            .sum();
        assert_eq!(binned, samples);
        let mean = part["tokens"].as_f64().unwrap() / samples as f64;
        assert!((part["lengths"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
        assert_eq!(part["lengths"]["longest"], part["longest"]);
        assert!(
            part["stops"]
                .as_object()
                .unwrap()
                .values()
                .any(|n| n.as_u64() == Some(samples))
        );
    }
    let padding = &stats["train"]["padding"];
    assert!(
        padding["packed"]
            .as_f64()
            .is_some_and(|share| share > 0.3 && share <= 1.0),
        "{padding}"
    );
    assert!(
        padding["padded"]
            .as_f64()
            .is_some_and(|share| (0.0..0.5).contains(&share)),
        "{padding}"
    );
    assert!(stats["valid"].get("padding").is_none());

    let line = "{\"prompt\": \"Twice? \", \"completion\": \"Yes.\"}\n";
    bench.write("train.jsonl", &(line.repeat(2) + &line.replace("Twice", "Once")));
    let stats = json(&["data", "stats", &bench.config, "--json"]);
    assert_eq!(stats["train"]["repeated_prompts"], 1);
    let page = ft(&["data", "stats", &bench.config]).ok();
    assert!(
        page.contains("training: ") && page.contains("held out: ") && page.contains("p95"),
        "{page}"
    );
}

fn lines(path: std::path::PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn record(prompt: &str, completion: &str) -> String {
    format!(
        "{{\"prompt\": \"{prompt} \", \"completion\": \"{completion}\", \"kind\": \"{}\"}}\n",
        prompt.len()
    )
}

const LONG: &str =
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen";

/// Five records: the second as the first, the fourth nearly as the third, the last with a held-out prompt.
fn doubled(bench: &Bench) {
    let (a, held_out) = (
        record("a b", "c"),
        "{\"prompt\": \"Who has key 61? \", \"completion\": \"Nobody.\"}\n",
    );
    let near = record(LONG, "yes") + &record(&format!("{LONG} more"), "yes");
    bench.write("train.jsonl", &(a.repeat(2) + &near + held_out));
}

#[test]
fn check_lists_what_it_finds_and_fails_where_something_is_wrong() {
    let bench = Bench::new();
    let clean = json(&["data", "check", &bench.config, "--near", "--json"]);
    assert_eq!(
        (clean["ok"].as_bool(), clean["train"].as_u64()),
        (Some(true), Some(60)),
        "{clean}"
    );
    assert!(ft(&["data", "check", &bench.config]).ok().contains("nothing found"));

    doubled(&bench);
    let done = ft(&["data", "check", &bench.config, "--near", "0.8", "--json"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("leak (1)"), "{}", done.stderr);
    let found: Value = serde_json::from_str(&done.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    let kinds: Vec<&str> = findings.iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["leak", "exact_duplicate", "near_duplicate"]);
    for (finding, [at, same]) in findings.iter().zip([
        ["valid.jsonl:2", "train.jsonl:5"],
        ["train.jsonl:2", "train.jsonl:1"],
        ["train.jsonl:4", "train.jsonl:3"],
    ]) {
        assert_eq!(
            (finding["count"].as_u64(), finding["wrong"].as_bool()),
            (Some(1), Some(finding["kind"] == "leak"))
        );
        let spot = &finding["places"][0];
        assert!(
            spot["at"].as_str().unwrap().ends_with(at) && spot["same_as"].as_str().unwrap().ends_with(same),
            "{spot}"
        );
    }
    for verb in ["plan", "train"] {
        let done = ft(&[verb, &bench.config]);
        let told = done.stdout + &done.stderr;
        assert!(
            told.contains("1 of 20 held-out prompts are in the training data") && told.contains("ft data dedup"),
            "{told}"
        );
    }

    bench.write(
        "train.jsonl",
        &std::fs::read_to_string(bench.path("valid.jsonl")).unwrap(),
    );
    let page = ft(&["data", "check", &bench.config]);
    assert!(
        page.stdout.contains("wrong: 20 of 20") && page.stdout.contains("and 10 more"),
        "{}",
        page.stdout
    );
    let cut = ft(&["data", "check", &bench.config, "--set", "data.max_length=12", "--json"]);
    let cut: Value = serde_json::from_str(&cut.stdout).unwrap();
    assert!(
        cut["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["kind"] == "no_stop" && f["wrong"] == true),
        "{cut}"
    );
    bench.write(
        "train.jsonl",
        &(record("a", "b") + "{\"prompt\": \"a\", \"completion\": \"\"}\n"),
    );
    let empty = ft(&["data", "check", &bench.config]);
    assert!(
        empty.code == 1 && empty.stderr.contains("train.jsonl:2: nothing to learn"),
        "{}",
        empty.stderr
    );
    let far = ft(&["data", "check", &bench.config, "--near", "0.05"]);
    assert!(far.code == 2 && far.stderr.contains("--near"), "{}", far.stderr);
}

#[test]
fn dedup_writes_what_remains() {
    let bench = Bench::new();
    doubled(&bench);
    let out = |name: &str| bench.path(name).display().to_string();
    let exact = json(&["data", "dedup", &bench.config, "--out", &out("exact.jsonl"), "--json"]);
    assert_eq!(
        (exact["kept"].as_u64(), exact["exact"].as_u64(), exact["near"].as_u64()),
        (Some(4), Some(1), None)
    );
    assert_eq!(
        (exact["held_out"].as_u64(), exact["held_out_removed"].as_bool()),
        (Some(1), Some(false))
    );
    let all = json(&[
        "data",
        "dedup",
        &bench.config,
        "--out",
        &out("all.jsonl"),
        "--near",
        "0.8",
        "--held-out",
        "--json",
    ]);
    assert_eq!(
        (all["kept"].as_u64(), all["near"].as_u64(), all["held_out"].as_u64()),
        (Some(2), Some(1), Some(1))
    );
    let rows = lines(bench.path("all.jsonl"));
    assert_eq!(rows[0], serde_json::json!({"prompt": "a b ", "completion": "c"}));
    assert_eq!(rows.len(), 2);
    let train = format!("data.train={}", out("all.jsonl"));
    let again = json(&[
        "data",
        "dedup",
        &bench.config,
        "--set",
        &train,
        "--out",
        &out("again.jsonl"),
        "--near",
        "--held-out",
        "--json",
    ]);
    assert_eq!(
        (again["kept"].as_u64(), lines(bench.path("again.jsonl"))),
        (Some(2), rows)
    );
    json(&["data", "check", &bench.config, "--set", &train, "--near", "--json"]);
    let refused = ft(&["data", "dedup", &bench.config, "--out", &out("all.jsonl")]);
    assert!(
        refused.code == 2 && refused.stderr.contains("exists already"),
        "{}",
        refused.stderr
    );
    let named = ft(&["data", "dedup", &bench.config, "--out", &out("all.csv")]);
    assert!(named.code == 2 && named.stderr.contains(".jsonl"), "{}", named.stderr);
}

#[test]
fn split_keeps_prompts_together_and_values_in_proportion() {
    let bench = Bench::new();
    let text: String = (0..200)
        .map(|i| record(&format!("Q{}{}?", "x".repeat(i % 2), i / 2), &i.to_string()))
        .collect();
    bench.write("train.jsonl", &text);
    let out = bench.path("parts");
    let dir = out.display().to_string();
    let split =
        |dir: &str, more: &[&str]| json(&[&["data", "split", &bench.config, "--out", dir, "--json"], more].concat());
    let summary = split(&dir, &["--share", "0.2", "--by", "kind"]);
    let (train, valid) = (lines(out.join("train.jsonl")), lines(out.join("valid.jsonl")));
    assert_eq!(
        (train.len() + valid.len(), summary["valid"].as_u64()),
        (200, Some(valid.len() as u64))
    );
    assert!((39..=41).contains(&valid.len()), "{summary}");
    for (value, parts) in summary["by"].as_object().unwrap() {
        let [train, valid] = [0, 1].map(|i| parts[i].as_f64().unwrap());
        assert!((valid - 0.2 * (train + valid)).abs() <= 2.0, "{value}: {parts}");
    }
    assert!(valid.iter().all(|v| train.iter().all(|t| t["prompt"] != v["prompt"])));
    let same = bench.path("same").display().to_string();
    split(&same, &["--share", "0.2", "--by", "kind"]);
    assert_eq!(lines(bench.path("same").join("valid.jsonl")), valid);
    split(
        &bench.path("other").display().to_string(),
        &["--share", "0.2", "--by", "kind", "--seed", "7"],
    );
    assert_ne!(lines(bench.path("other").join("valid.jsonl")), valid);
    let wrong = ft(&["data", "split", &bench.config, "--out", "x", "--share", "1"]);
    assert!(
        wrong.code == 2 && wrong.stderr.contains("--share 1"),
        "{}",
        wrong.stderr
    );
    let column = ft(&["data", "split", &bench.config, "--out", "x", "--by", "kin"]);
    assert!(
        column.code == 1 && column.stderr.contains("did you mean `kind`?"),
        "{}",
        column.stderr
    );
}

#[test]
fn convert_writes_the_fields_of_the_format() {
    let bench = Bench::new();
    bench.write(
        "two.csv",
        "question,answer,id\n\"A, b?\",\"Say \"\"x\"\"\",1\nC?,\"D\ne\",2\n",
    );
    let mapped = bench.text.replace(
        "train = 'train.jsonl'",
        "train = 'two.csv'\nmap = { prompt = 'Q: {question} ', completion = '{answer}' }",
    );
    let config = bench.write("two.toml", &mapped.replace("valid = 'valid.jsonl'\n", ""));
    let out = bench.path("two.jsonl").display().to_string();
    let summary = json(&["data", "convert", &config, "--out", &out, "--json"]);
    assert_eq!(
        (summary["records"].as_u64(), summary["format"].as_str()),
        (Some(2), Some("prompt-completion"))
    );
    let rows = lines(bench.path("two.jsonl"));
    assert_eq!(
        rows[0],
        serde_json::json!({"prompt": "Q: A, b? ", "completion": "Say \"x\""})
    );
    assert_eq!(rows[1]["completion"], "D\ne");
    let tokens = |config: &str, set: &[&str]| {
        let preview = json(&[&["data", "preview", config, "--json"], set].concat());
        preview["samples"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["tokens"].clone())
            .collect::<Vec<_>>()
    };
    let train = format!("data.train={out}");
    assert_eq!(tokens(&config, &[]), tokens(&bench.config, &["--set", &train]));
    let valid = ft(&["data", "convert", &config, "--out", "x.jsonl", "--valid"]);
    assert!(
        valid.code == 2 && valid.stderr.contains("no data.valid"),
        "{}",
        valid.stderr
    );
}

#[test]
fn tasks_are_asked_for_their_own_training_data_alone() {
    let bench = Bench::new();
    bench.write(
        "other.jsonl",
        &std::fs::read_to_string(bench.path("valid.jsonl")).unwrap(),
    );
    bench.write("more.jsonl", &record("Q", "A"));
    let task = |name: &str, train: &str, valid: &str| {
        format!("[[task]]\nname = '{name}'\ntrain = '{train}'\nvalid = '{valid}'\n")
    };
    let text = bench.text.replace("train = 'train.jsonl'\nvalid = 'valid.jsonl'\n", "");
    let plan = |tasks: String| json(&["plan", &bench.write("tasks.toml", &(text.clone() + &tasks)), "--json"]);
    let apart = plan(task("a", "train.jsonl", "valid.jsonl") + &task("b", "other.jsonl", "more.jsonl"));
    assert_eq!(
        apart["data"]["leaked"], 0,
        "the held-out data of one task may train another"
    );
    let leaked = plan(task("a", "train.jsonl", "more.jsonl") + &task("b", "other.jsonl", "valid.jsonl"));
    assert_eq!(leaked["data"]["leaked"], 20);
    assert_eq!(
        [0, 1].map(|i| leaked["data"]["tasks"][i]["leaked"].as_u64()),
        [Some(0), Some(20)]
    );
    let warnings = leaked["warnings"].to_string();
    assert!(
        warnings.contains("task b: 20 of 20 held-out prompts") && !warnings.contains("task a:"),
        "{warnings}"
    );
    assert!(
        ft(&["data", "check", &bench.path("tasks.toml").display().to_string()])
            .ok()
            .contains("nothing found")
    );
    let b = ft(&[
        "data",
        "check",
        &bench.path("tasks.toml").display().to_string(),
        "--task",
        "b",
    ]);
    assert!(b.code == 1 && b.stderr.contains("leak (20)"), "{}", b.stderr);
}

#[test]
fn tokens_are_kept_where_data_cache_says() {
    let bench = Bench::new();
    let folder = bench.path("tokens");
    let set = format!("data.cache={}", folder.display());
    let plan = || ft(&["plan", &bench.config, "--set", &set]).ok();
    let (first, second) = (plan(), plan());
    let told = |page: &str, how: &str| page.matches(&format!("cache      {how} {}", folder.display())).count();
    assert_eq!(
        (told(&first, "written to"), told(&second, "read from")),
        (2, 2),
        "{first}\n{second}"
    );
    let cached = json(&["plan", &bench.config, "--json", "--set", &set])["data"]["cached"].clone();
    assert_eq!(cached.as_array().map(Vec::len), Some(2), "{cached}");
    assert_eq!(cached[0]["how"], "read");
    // Small sets are kept nowhere by themselves.
    let plain = json(&["plan", &bench.config, "--json"]);
    assert!(plain["data"].get("cached").is_none(), "{plain}");

    let shard = std::path::Path::new(cached[0]["folder"].as_str().unwrap()).join("00000.shard");
    std::fs::write(&shard, "not a shard").unwrap();
    let again = plan();
    assert!(again.contains("damaged, and written again to"), "{again}");
    assert!(again.contains("warning    the token cache"), "{again}");

    let blocked = bench.write("blocked", "a file");
    let refused = ft(&["plan", &bench.config, "--set", &format!("data.cache={blocked}")]);
    assert!(
        refused.stderr.contains("data.cache") && refused.stderr.contains("cannot be written"),
        "{}",
        refused.stderr
    );
}
