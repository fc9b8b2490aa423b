//! Every configuration in `configs/` is read and planned, against tiny files in the place of the ones it names.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use ft_data::Examples;
use ft_peft::PeftConfig;
use ft_train::continual::StrategyConfig;
use ft_train::objectives::ObjectiveConfig;
use ft_train::{Plan, RunConfig};
use serde_json::json;

use crate::support::fixture;
use crate::train_support::Workshop;

#[test]
fn every_shipped_configuration_can_be_planned() {
    let workshop = Workshop::new();
    write_data(&workshop);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            plan(&workshop, &path);
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} configurations");
}

#[test]
fn every_method_has_a_configuration() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts: String = files.map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
    for name in PeftConfig::NAMES {
        // One of LoRA's options too, and no more than that in most runs.
        let key = if *name == "trainable_tokens" {
            "trainable_token_indices".into()
        } else {
            format!("method = \"{name}\"")
        };
        assert!(texts.contains(&key), "no configuration in configs/ says {key}");
    }
}

fn plan(workshop: &Workshop, path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.starts_with('#'), "{} begins by saying what it is", path.display());
    let own = RunConfig::load(path, &[]).unwrap_or_else(|e| panic!("{e}"));
    let set = |key: &str, file: &str| format!("{key}={}", workshop.path(file).display());
    let out = format!("runs/{}", path.file_stem().unwrap().to_string_lossy());
    let mut sets = vec![set("train.out", &out)];
    // The files of the embedded default are there; everything else has a stand-in.
    if path
        .file_stem()
        .is_none_or(|s| s != "quickstart" && s != "compare-embedded" && s != "compare-distill")
    {
        sets.push(set("model.path", "base"));
        match own.task.is_empty() {
            true => sets.push(set("data.train", data_for(&own))),
            false => sets.push(tasks_for(workshop, &own)),
        }
        if own.data.valid.is_some() {
            sets.push(set("data.valid", data_for(&own)));
        }
        if own.eval.general.is_some() {
            sets.push(set("eval.general", "corpus.txt"));
        }
        if own.objective.name() == "distill" {
            sets.push(set("objective.teacher", "base"));
        }
    }
    // The tiny base has no biases.
    if path.file_stem().is_some_and(|s| s == "e2e-bitfit") {
        sets.push(set("model.path", "biased"));
    }
    // Encoders, and a teacher of labels.
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("pairs-infonce") => sets.push(set("model.path", "bert")),
        Some("text-mlm") => sets.push(set("model.path", "bert_masked")),
        Some("sst2-distill") => {
            sets.extend([set("model.path", "distilbert"), set("objective.teacher", "bert")]);
            sets.extend(["data.train", "data.valid"].map(|key| set(key, "sst2.tsv")));
        }
        _ => {}
    }
    // The tiny matrices are too narrow for the ranks of real models.
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("text-rslora" | "e2e-miss") => sets.push("peft.rank=16".into()),
        Some("e2e-shira") => sets.push("peft.rank=4".into()),
        _ => {}
    }
    let config = RunConfig::load(path, &sets).unwrap_or_else(|e| panic!("{e}"));
    let plan = Plan::resolve(config, &Device::flex(), "cpu").unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        plan.steps.total > 0 && plan.attached.parameters > 0,
        "{}",
        path.display()
    );
    let again = RunConfig::parse(path, plan.config.to_toml(Some(&plan.provenance)), &[]);
    assert_eq!(
        again.unwrap_or_else(|e| panic!("{e}")),
        plan.config,
        "the resolved configuration reads back"
    );
}

#[test]
fn every_objective_and_every_strategy_has_a_configuration() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts: String = files.map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
    let objectives = ObjectiveConfig::NAMES.iter().filter(|name| **name != "sft");
    let keys = objectives.map(|name| format!("kind = \"{name}\""));
    for key in keys.chain(
        StrategyConfig::NAMES
            .iter()
            .map(|name| format!("strategy = \"{name}\"")),
    ) {
        assert!(texts.contains(&key), "no configuration in configs/ says {key}");
    }
}

/// The tasks with tiny files in the place of theirs.
fn tasks_for(workshop: &Workshop, config: &RunConfig) -> String {
    let mut tasks = config.task.clone();
    for task in &mut tasks {
        let kind = task.train.paths()[0].extension().unwrap_or_default().to_owned();
        let file = workshop.path(match kind.to_str() {
            Some("csv") => "e2e.csv",
            Some("tsv") => "sst2.tsv",
            Some("json") => "alpaca.json",
            _ => "gsm8k.jsonl",
        });
        (task.train, task.valid) = (file.clone().into(), Some(file.into()));
    }
    let toml = |task: &ft_train::config::TaskConfig| {
        let table: serde_json::Map<_, _> = serde_json::from_value(json!(task)).unwrap();
        let map = json!(task.map).to_string().replace("\":", "\"=");
        let entries = table.iter().map(|(key, value)| match key.as_str() {
            "map" => format!("map = {map}"),
            _ => format!("{key} = {value}"),
        });
        format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
    };
    format!("task=[{}]", tasks.iter().map(toml).collect::<Vec<_>>().join(", "))
}

/// The tiny file of the same kind.
fn data_for(config: &RunConfig) -> &'static str {
    let path = &config.data.train.paths()[0];
    match config.objective.kind().examples() {
        Examples::Pairs => return "pairs.jsonl",
        Examples::Rated => return "rated.jsonl",
        Examples::Similar => return "similar.jsonl",
        Examples::Samples | Examples::Labelled => {}
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => "e2e.csv",
        Some("tsv") => "sst2.tsv",
        Some("txt") => "corpus.txt",
        _ if path.file_stem().is_some_and(|s| s == "corpus") => "corpus.txt",
        _ => "gsm8k.jsonl",
    }
}

fn write_data(workshop: &Workshop) {
    let csv: String = (0..400)
        .map(|i| format!("\"name[{i}], area[city centre]\",turn a into b\n"))
        .collect();
    fs::write(workshop.path("e2e.csv"), format!("mr,ref\n{csv}")).unwrap();
    let reviews: String = (0..20).map(|i| format!("turn a {i}\t{}\n", i % 2)).collect();
    fs::write(workshop.path("sst2.tsv"), format!("sentence\tlabel\n{reviews}")).unwrap();
    let order = |i: usize| json!({ "instruction": format!("turn a {i}"), "input": "", "output": "b c d" });
    let orders: Vec<_> = (0..20).map(order).collect();
    fs::write(workshop.path("alpaca.json"), json!(orders).to_string()).unwrap();
    let problem = |i: usize| json!({ "question": format!("turn a {i}"), "answer": "b c d" }).to_string() + "\n";
    fs::write(workshop.path("gsm8k.jsonl"), (0..20).map(problem).collect::<String>()).unwrap();
    write_biased(workshop);
    for name in ["bert", "bert_masked", "distilbert"] {
        workshop.encoder(name, &fixture("heads").join(name));
    }
    let pair =
        |i: usize| json!({ "chosen": format!("turn a {i} b"), "rejected": format!("turn a {i} c") }).to_string() + "\n";
    fs::write(workshop.path("pairs.jsonl"), (0..40).map(pair).collect::<String>()).unwrap();
    let similar = |i: usize| json!({ "anchor": format!("turn {i}"), "positive": format!("a {i}") }).to_string() + "\n";
    fs::write(workshop.path("similar.jsonl"), (0..20).map(similar).collect::<String>()).unwrap();
    let rated = |i: usize| {
        json!({ "prompt": format!("turn {i}"), "completion": "b", "label": i.is_multiple_of(2) }).to_string() + "\n"
    };
    fs::write(workshop.path("rated.jsonl"), (0..40).map(rated).collect::<String>()).unwrap();
    let line = |i: usize| format!("turn {} into b c d e f g h ; {i}\n", ["a", "b", "c"][i % 3]);
    fs::write(workshop.path("corpus.txt"), (0..60).map(line).collect::<String>()).unwrap();
}

/// A tiny Qwen 2 that reads the tiny tokenizer.
fn write_biased(workshop: &Workshop) {
    let biased = workshop.path("biased");
    fs::create_dir_all(&biased).unwrap();
    for folder in [workshop.path("base"), fixture("families/qwen2")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, biased.join(path.file_name().unwrap())).unwrap();
        }
    }
}
