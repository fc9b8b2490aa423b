//! Classifiers from a configuration to what they say, and what they are not asked; vectors of texts.

use serde_json::{Value, json};

use crate::support::{Bench, ft, json};

#[test]
fn a_classifier_is_trained_measured_inspected_merged_and_says_no_text() {
    let bench = Bench::new();
    let line = |n: usize| {
        let (text, label) = [("the key is here", "here"), ("the key is gone", "gone")][n % 2];
        json!({ "text": format!("{text} {n}"), "label": label }).to_string() + "\n"
    };
    let data = bench.write("labelled.jsonl", &(0..24).map(line).collect::<String>());
    let run = bench.path("classifier").display().to_string();
    let config = bench.write(
        "classifier.toml",
        &format!(
            "[model]\npath = \"embedded:tiny\"\n[objective]\nkind = \"classify\"\nlabels = [\"here\", \"gone\"]\n[data]\ntrain = \"{data}\"\n\
             valid = \"{data}\"\n[optim]\nlr = 2e-2\n[train]\nsteps = 8\nbatch_size = 8\nout = \"{run}\"\n"
        ),
    );
    let preview = ft(&["data", "preview", &config]).ok();
    assert!(preview.contains("classification"), "{preview}");
    ft(&["train", &config, "--plain"]).ok();
    let out = bench.path("said.jsonl").display().to_string();
    let measured = json(&["eval", &run, "--data", &data, "--out", &out, "--json"]);
    for name in ["loss", "accuracy", "macro_f1", "matthews"] {
        assert!(measured[name].is_number(), "{measured}");
    }
    let said: Vec<Value> = std::fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let right = said
        .iter()
        .enumerate()
        .filter(|(n, line)| line["prediction"] == ["here", "gone"][n % 2])
        .count();
    assert_eq!(right as f64 / 24.0, measured["accuracy"].as_f64().unwrap());
    assert_eq!(said[0]["outputs"].as_object().unwrap().len(), 2);
    for verb in ["generate", "chat"] {
        let prompt: &[&str] = if verb == "generate" { &["--prompt", "x"] } else { &[] };
        let refused = ft(&[&[verb, run.as_str()][..], prompt].concat());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("needs a model that writes text"),
            "{}",
            refused.stderr
        );
    }
    let merged = bench.path("merged").display().to_string();
    ft(&["merge", &run, "--out", &merged]).ok();
    let inspected = json(&["inspect", &merged, "--json"]);
    assert_eq!(inspected["what"], "LlamaForSequenceClassification: here, gone");
    let again = json(&["eval", &merged, "--data", &data, "--json"]);
    assert!(
        (again["loss"].as_f64().unwrap() - measured["loss"].as_f64().unwrap()).abs() < 1e-2,
        "{again} {measured}"
    );
}

#[test]
fn texts_become_vectors() {
    let lines = ft(&[
        "embed",
        "embedded:tiny",
        "--text",
        "the key",
        "--text",
        "x",
        "--pooling",
        "last",
        "--normalize",
    ])
    .ok();
    let vectors: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((vectors.len(), &vectors[1]["text"]), (2, &json!("x")));
    for vector in &vectors {
        let numbers = vector["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap());
        assert!((numbers.map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5, "{vector}");
    }
}
