//! What a model says, and how well.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bench, ft, json};

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
fn predictions_are_scored_without_a_model() {
    let bench = Bench::new();
    let lines = concat!(
        "{\"prediction\": \"The Mill is a cheap pub.\", \"references\": [\"The Mill is a pub.\", \"The mill is a cheap pub\"]}\n",
        "\n",
        "{\"prediction\": \"Alba\", \"references\": [\"Alba\"], \"id\": 7}\n",
    );
    let file = bench.write("predictions.jsonl", lines);
    let score = |more: &[&str]| json(&[&["eval", "--predictions", &file, "--json"], more].concat());
    let all = score(&[]);
    for key in [
        "exact_match",
        "f1",
        "bleu",
        "chrf",
        "rouge1",
        "rouge2",
        "rougeL",
        "rougeLsum",
    ] {
        assert!(all[key].is_f64(), "{key}: {all}");
    }
    assert_eq!(
        (&all["samples"], &all["exact_match"], &all["f1"]),
        (&2.into(), &0.5.into(), &1.0.into())
    );
    let bleu = score(&[
        "--metric",
        "bleu",
        "--tokenize",
        "char",
        "--smooth-method",
        "floor",
        "--lowercase",
    ]);
    assert_eq!(
        bleu["signatures"]["bleu"],
        "nrefs:var|case:lc|eff:no|tok:char|smooth:floor[0.10]|version:2.6.0"
    );
    assert_eq!(bleu.as_object().unwrap().len(), 3, "{bleu}");

    let wrong: &[(&[&str], &str)] = &[
        (&["--metric", "perplexity"], "needs MODEL"),
        (&["--metric", "blue"], "rougeLsum"),
        (&["--smooth-value", "0.5"], "takes no value"),
        (&["--tokenize", "zh"], "13a, intl, char, none"),
        (&["--out", "x.jsonl"], "cannot be used with"),
    ];
    for (more, says) in wrong {
        let done = ft(&[&["eval", "--predictions", &file], *more].concat());
        assert!(
            done.code == 2 && done.stderr.contains(says),
            "{more:?}: {}",
            done.stderr
        );
    }
    let bad = bench.write(
        "bad.jsonl",
        "{\"prediction\": \"a\", \"references\": [\"b\"]}\n{\"prediction\": \"a\"}\n",
    );
    let done = ft(&["eval", "--predictions", &bad]);
    assert_eq!(done.code, 1);
    let names = ["bad.jsonl", "line 2", "references"];
    assert!(names.iter().all(|name| done.stderr.contains(name)), "{}", done.stderr);
}

#[test]
fn answers_are_written_as_predictions() {
    let bench = Bench::new();
    let two = "{\"prompt\": \"Who has key 3? \", \"completion\": \"Door 3 has it.\"}\n{\"prompt\": \"Who has key 3? \", \"completion\": \"The third.\"}\n";
    let data = bench.write("two.jsonl", two);
    let out = bench.path("answers.jsonl").display().to_string();
    let eval = [
        "eval",
        "embedded:tiny",
        "--data",
        &data,
        "--temperature",
        "0",
        "--max-new-tokens",
        "8",
        "--json",
    ];
    let measured = json(&[&eval[..], &["--metric", "chrf", "--out", &out]].concat());
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(line["prompt"], "Who has key 3? ");
    assert_eq!(line["references"], serde_json::json!(["Door 3 has it.", "The third."]));
    let scored = json(&["eval", "--predictions", &out, "--metric", "chrf", "--json"]);
    assert_eq!(scored["chrf"], measured["chrf"]);
    let again = ft(&[&eval[..], &["--out", &out]].concat());
    assert!(
        again.code == 2 && again.stderr.contains("exists already"),
        "{}",
        again.stderr
    );
}

#[test]
fn questions_are_answered_by_likelihood() {
    let bench = Bench::new();
    let lines = concat!(
        "{\"prompt\": \"The key of the house was\", \"choices\": [\"in the red box.\", \"qzx vkq\"], \"answer\": 0}\n",
        "{\"question\": \"Who has it?\", \"choices\": {\"text\": [\"zqv xx qk\", \"Tom\"], \"label\": [\"A\", \"B\"]}, \"answerKey\": \"B\"}\n",
    );
    let file = bench.write("questions.jsonl", lines);
    let eval = ["eval", "embedded:tiny", "--data", &file, "--metric"];
    let found = json(&[&eval[..], &["acc,acc_norm", "--json"]].concat());
    assert_eq!((&found["samples"], &found["acc"]), (&2.into(), &1.0.into()), "{found}");
    assert!(found["acc_norm"].is_f64());
    let mixed = ft(&[&eval[..], &["acc,bleu"]].concat());
    assert!(
        mixed.code == 2 && mixed.stderr.contains("two calls"),
        "{}",
        mixed.stderr
    );
    let bad = bench.write(
        "bad.jsonl",
        "{\"prompt\": \"x\", \"choices\": [\"a\"], \"answer\": 3}\n",
    );
    let done = ft(&["eval", "embedded:tiny", "--data", &bad, "--metric", "acc"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("line 1"), "{}", done.stderr);
}

#[test]
fn every_prompt_may_have_its_adapter() {
    let bench = Bench::new();
    let config = |seed: &str, out: &str| {
        let path = bench.path(out).display().to_string();
        let (seed, out) = (format!("train.seed={seed}"), format!("train.out='{path}'"));
        json(&["train", &bench.config, "--json", "--set", &seed, "--set", &out]);
        path
    };
    let (a, b) = (config("1", "a"), config("2", "b"));
    let lines = [
        "",
        ", \"adapter\": \"b\"",
        ", \"adapter\": \"off\"",
        ", \"adapter\": \"a\"",
    ];
    let lines = lines
        .map(|more| format!("{{\"prompt\": \"Who has key 3? \"{more}}}\n"))
        .concat();
    let file = bench.write("mixed.jsonl", &lines);
    let rest = ["--temperature", "0", "--max-new-tokens", "8", "--json"];
    let named = [format!("a={a}"), format!("b={b}")];
    let mixed = [
        "generate",
        "embedded:tiny",
        "--prompts",
        &file,
        "--adapter",
        &named[0],
        "--adapter",
        &named[1],
    ];
    let mixed = json(&[&mixed[..], &rest].concat());
    let alone = |more: &[&str]| {
        let one = ["generate", "embedded:tiny", "--prompt", "Who has key 3? "];
        json(&[&one[..], more, &rest].concat())["tokens"].clone()
    };
    let expected = [
        alone(&["--adapter", &a]),
        alone(&["--adapter", &b]),
        alone(&[]),
        alone(&["--adapter", &a]),
    ];
    let found = mixed["generations"].as_array().unwrap();
    assert!(
        found.iter().map(|g| &g["tokens"]).eq(&expected),
        "{found:?} {expected:?}"
    );

    let twice = ft(&[
        "generate",
        "embedded:tiny",
        "--prompt",
        "x",
        "--adapter",
        &named[0],
        "--adapter",
        &named[0],
    ]);
    assert!(
        twice.stderr.contains("\"a\" is the name of another adapter"),
        "{}",
        twice.stderr
    );

    let out = bench.path("both").display().to_string();
    let weighted = [format!("{a}:0.7"), format!("{b}:0.3")];
    let combined = json(&[
        "adapters",
        "combine",
        &weighted[0],
        &weighted[1],
        "--out",
        &out,
        "--json",
    ]);
    assert_eq!(combined["rank"], 8);
    assert!(!alone(&["--adapter", &out]).as_array().unwrap().is_empty());
    let method = ft(&["adapters", "combine", &a, "--method", "mean", "--out", "x"]);
    assert_eq!(method.code, 2, "{}", method.stderr);
}

#[test]
fn an_adapter_of_another_method_becomes_lora() {
    let bench = Bench::new();
    let sets = [
        "--set",
        "peft.method=loha",
        "--set",
        "peft.rank=4",
        "--set",
        "optim.lr=1e-2",
    ];
    json(&[&["train", &bench.config, "--json"], &sets[..]].concat());
    let eval = |args: &[&str]| json(&[&["eval"], args, &["--data", &bench.valid, "--json"]].concat())["loss"].as_f64();
    let own = eval(&[&bench.out()]).unwrap();
    let convert = |name: &str, more: &[&str]| {
        let out = bench.path(name).display().to_string();
        let made = json(&[&["adapters", "convert", &bench.out(), "--out", &out, "--json"], more].concat());
        let lora = eval(&["embedded:tiny", "--adapter", &out]).unwrap();
        assert_eq!(json(&["inspect", &out, "--json"])["method"], "lora");
        (made, lora)
    };
    // A product of two of rank 4 has rank 16.
    let (made, lora) = convert("exact", &["--rank", "16"]);
    assert!(made["relative_error"].as_f64().unwrap() < 1e-3, "{made}");
    assert!((lora - own).abs() < 1e-4, "{lora} {own}");
    let (half, _) = convert("half", &["--energy", "0.5"]);
    let error = half["relative_error"].as_f64().unwrap();
    assert!((0.1..0.5f64.sqrt()).contains(&error), "{half}");
    let (reduced, _) = convert("reduced", &["--rank", "16", "--reduce-intruders", "--mitigation", "0"]);
    assert!(reduced["intruders"].is_u64(), "{reduced}");

    let convert = |more: &[&str]| ft(&[&["adapters", "convert"], more, &["--out", "x"]].concat());
    for (args, code, says) in [
        (vec![bench.out()], 1, "no rank of its own"),
        (
            vec![bench.out(), "--rank".into(), "0".into()],
            2,
            "--rank: must be at least 1",
        ),
        (
            vec![bench.out(), "--energy".into(), "1.5".into()],
            2,
            "--energy: must be a share",
        ),
        (
            vec!["embedded:tiny".into(), "--rank".into(), "4".into()],
            2,
            "no adapter to convert",
        ),
        (
            vec![bench.out(), "--mitigation".into(), "0.5".into()],
            2,
            "--reduce-intruders",
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let refused = convert(&args);
        assert_eq!(refused.code, code, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{args:?}: {}", refused.stderr);
    }
}

#[test]
fn eval_compares_with_all_references_of_a_row() {
    let bench = Bench::new();
    let rows = "{\"q\": {\"text\": \"One?\"}, \"refs\": [\" a\", \" b\", \" c\"]}\n{\"q\": {\"text\": \"Two?\"}, \"refs\": [\" d\"]}\n";
    let file = bench.write("rows.jsonl", rows);
    let answers = |map: &str, out: &str| -> Vec<Value> {
        let out = bench.path(out).display().to_string();
        let prompt = ["--map", "prompt={q.text}", "--map", map, "--out", &out];
        ft(&[
            &["eval", "embedded:tiny", "--data", &file, "--max-new-tokens", "2"],
            &prompt[..],
        ]
        .concat())
        .ok();
        let text = fs::read_to_string(out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = answers("completion={refs}", "all.jsonl");
    let references: Vec<&Value> = all.iter().map(|answer| &answer["references"]).collect();
    assert_eq!(references, [&json!([" a", " b", " c"]), &json!([" d"])]);
    let last = answers("completion={refs[-1]}", "last.jsonl");
    assert_eq!(last[0]["references"], json!([" c"]));
    let joined = answers("completion={refs|join(\" or\")}", "joined.jsonl");
    assert_eq!(joined[0]["references"], json!([" a or b or c"]));
}
