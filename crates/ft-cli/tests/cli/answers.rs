//! What a model says, and how well.

use serde_json::Value;

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
