//! Several tasks in one run.

use std::fs;

use serde_json::{Value, json};

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;

/// The workshop with its configuration's data replaced by these tables.
pub fn with_tasks(tables: &str) -> Workshop {
    let workshop = Workshop::new();
    write_tasks(&workshop);
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("train = \"train.jsonl\"\nvalid = \"valid.jsonl\"\n", "");
    fs::write(&path, format!("{text}\n{tables}")).unwrap();
    workshop
}

/// `copy` and `shift` beside the workshop's own task of reversing: 9 and 14 samples, 5 of each held out.
pub fn write_tasks(workshop: &Workshop) {
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let write = |name: &str, numbers: std::ops::Range<usize>, word: &str, by: usize| {
        let line = |n: usize| {
            let list: Vec<usize> = (0..2 + n % 3).map(|i| (n * 5 + i * 3 + n / 4) % 8).collect();
            let text = |by: usize| list.iter().map(|i| letters[(i + by) % 8]).collect::<Vec<_>>().join(" ");
            json!({ "prompt": format!("{word} {} =", text(0)), "completion": text(by) }).to_string() + "\n"
        };
        fs::write(workshop.path(name), numbers.map(line).collect::<String>()).unwrap();
    };
    write("copy.jsonl", 0..9, "into", 0);
    write("copy_valid.jsonl", 40..45, "into", 0);
    write("shift.jsonl", 0..14, ";", 1);
    write("shift_valid.jsonl", 60..65, ";", 1);
}

pub const THREE: &str = r#"
[[task]]
name = "reverse"
train = "train.jsonl"
valid = "valid.jsonl"
[[task]]
name = "copy"
train = "copy.jsonl"
valid = "copy_valid.jsonl"
[[task]]
name = "shift"
train = "shift.jsonl"
valid = "shift_valid.jsonl"
"#;

const ONE: &str = "[[task]]\nname = \"reverse\"\ntrain = \"train.jsonl\"\nvalid = \"valid.jsonl\"\n";

#[test]
fn a_mixture_of_one_task_is_that_task() {
    let plain = Workshop::new();
    plain.fit("out", &[]).unwrap();
    for sets in [&[][..], &["mixture.by=weight", "mixture.epoch=all_exhausted"]] {
        let one = with_tasks(ONE);
        one.fit("out", sets).unwrap();
        assert_eq!(one.curve("out"), plain.curve("out"));
        assert_eq!(one.result("out", 12), plain.result("out", 12));
    }
}

#[test]
fn a_mixture_resumes_to_the_byte() {
    stopped_equals_left_alone(&with_tasks(THREE), &[]);
    let temperature = [
        "mixture.by=temperature",
        "mixture.epoch=first_exhausted",
        "mixture.cap=12",
    ];
    stopped_equals_left_alone(&with_tasks(THREE), &temperature);
}

/// Every evaluation of three tasks: what each alone comes to, and both means over them.
#[test]
fn every_evaluation_reports_every_task() {
    let workshop = with_tasks(THREE);
    workshop.fit("out", &["eval.samples=0"]).unwrap();
    let lines: Vec<Value> = workshop
        .metrics("out")
        .into_iter()
        .filter(|m| !m["eval_loss"].is_null())
        .collect();
    assert_eq!(lines.len(), 4, "before the first step and after 4, 8 and 12");
    let single = |files: &str| {
        let name = files.split('_').next().unwrap();
        let valid = if name == "train" {
            "valid.jsonl".into()
        } else {
            format!("{name}_valid.jsonl")
        };
        let plain = Workshop::new();
        write_tasks(&plain);
        let valid = format!("data.valid={}", plain.path(&valid).display());
        plain
            .fit(name, &[&valid, "train.steps=1", "schedule.warmup=0", "eval.samples=0"])
            .unwrap();
        plain.metrics(name)[0].clone()
    };
    let tasks = [("reverse", "train"), ("copy", "copy"), ("shift", "shift")];
    let (mut sum, mut tokens, mut means) = (0.0, 0.0, 0.0);
    for (task, files) in tasks {
        let alone = single(files);
        let loss = alone["eval_loss"].as_f64().unwrap();
        let found = lines[0][format!("eval_loss/{task}")].as_f64().unwrap();
        assert!((found - loss).abs() < 1e-6, "{task}: {found} and {loss}");
        let n = alone["eval_tokens"].as_f64().unwrap();
        (sum, tokens, means) = (sum + loss * n, tokens + n, means + loss / 3.0);
    }
    let found = |key: &str| lines[0][key].as_f64().unwrap();
    assert!((found("eval_loss") - sum / tokens).abs() < 1e-6);
    assert!((found("eval_loss_macro") - means).abs() < 1e-6);
}

#[test]
fn the_best_and_patience_go_by_a_task() {
    let workshop = with_tasks(THREE);
    // A rate at which losses go up and down.
    let sets = [
        "optim.lr=0.3",
        "train.eval_every=1",
        "eval.samples=0",
        "train.load_best=true",
    ];
    for by in ["micro", "macro", "copy"] {
        let by_key = format!("train.best_by={by}");
        let outcome = workshop.fit(by, &[&sets[..], &[by_key.as_str()]].concat()).unwrap();
        let key = match by {
            "micro" => "eval_loss".to_owned(),
            "macro" => "eval_loss_macro".to_owned(),
            task => format!("eval_loss/{task}"),
        };
        let lines = workshop.metrics(by);
        let scored = lines
            .iter()
            .filter_map(|m| Some((m["step"].as_u64()?, m[&key].as_f64()?)));
        let best = scored
            .filter(|(step, _)| *step > 0)
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap();
        assert_eq!(outcome.best.unwrap().step as u64, best.0, "{by}");
    }
    let impatient = [
        "train.early_stopping.patience=1",
        "train.early_stopping.threshold=100",
        "train.best_by=shift",
    ];
    let outcome = workshop.fit("impatient", &[&sets[..], &impatient].concat()).unwrap();
    assert_eq!(
        outcome.steps, 2,
        "the first evaluation is an improvement, the second is not"
    );
}

/// The loss is linear in the weights, and a weight for every task is a factor.
#[test]
fn loss_weights_weigh_target_tokens() {
    let first = |weights: [f64; 3]| {
        let mut tables = THREE.to_owned();
        for (name, weight) in ["reverse", "copy", "shift"].iter().zip(weights) {
            let line = format!("name = \"{name}\"\n");
            tables = tables.replace(&line, &format!("{line}loss_weight = {weight:?}\n"));
        }
        let workshop = with_tasks(&tables);
        let sets = [
            "train.steps=1",
            "schedule.warmup=0",
            "eval.samples=0",
            "train.batch_size=23",
            "train.check_gradients=false",
        ];
        workshop.fit("out", &sets).unwrap();
        workshop.metrics("out")[1]["loss"].as_f64().unwrap()
    };
    let all = first([1.0; 3]);
    let parts: f64 = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        .map(first)
        .iter()
        .sum();
    assert!((all - parts).abs() < 1e-5, "{all} and {parts}");
    let twice = first([2.0; 3]);
    assert!((twice - 2.0 * all).abs() < 1e-5, "{twice} and {all}");
}

#[test]
fn metrics_of_a_task_are_measured_on_it() {
    let tables = THREE.replace("name = \"copy\"\n", "name = \"copy\"\nmetrics = [\"exact_match\"]\n");
    let outcome = with_tasks(&tables)
        .fit("out", &["train.steps=1", "schedule.warmup=0"])
        .unwrap();
    let after = outcome.after.unwrap();
    let names = ["exact_match/copy", "exact_match_macro", "exact_match_micro"];
    assert_eq!(after.metrics.keys().collect::<Vec<_>>(), names);
    assert_eq!(after.tasks.keys().collect::<Vec<_>>(), ["copy", "reverse", "shift"]);
}

#[test]
fn a_task_that_cannot_be_is_named_with_the_way_out() {
    let refused = |tables: &str, sets: &[&str], expected: &[&str]| {
        let error = with_tasks(tables).plan("out", sets).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{sets:?}: {error}");
        }
    };
    let without = THREE.replace("valid = \"copy_valid.jsonl\"\n", "");
    refused(
        &without,
        &[],
        &["task \"copy\": no held-out rows; give valid, or data.valid_split"],
    );
    let twice = THREE.replace("\"shift\"", "\"copy\"");
    refused(&twice, &[], &["task \"copy\": two tasks have this name"]);
    let weights = |weight: &str| THREE.replace("[[task]]\n", &format!("[[task]]\nweight = {weight}\n"));
    refused(&weights("0.0"), &[], &["the weights sum to 0"]);
    refused(
        &weights("nan"),
        &[],
        &["task \"reverse\": weight must be a number", "task \"shift\": weight"],
    );
    refused(&weights("-1.0"), &[], &["weight must be a number of at least 0"]);
    refused(&weights("1.0"), &["mixture.by=size"], &["mixture.by: not \"weight\""]);
    refused(
        THREE,
        &["data.train=train.jsonl"],
        &["data.train: [[task]] tables take its place"],
    );
    refused(
        THREE,
        &["train.best_by=turn"],
        &["train.best_by: no task and no metric of one \"turn\"; one of \"micro\", \"macro\", \"reverse\""],
    );
    refused(
        &THREE.replace("\"copy\"", "\"macro\""),
        &[],
        &["task \"macro\": name means all tasks"],
    );
    refused(
        &THREE.replace("\"copy\"", "\"a b\""),
        &[],
        &["task \"a b\": name must be letters"],
    );
    refused(
        &THREE.replace("copy.jsonl", "lost.jsonl"),
        &[],
        &["task \"copy\": train: no file"],
    );
    let far = weights("1.0").replacen("weight = 1.0", "weight = 1e-12", 1);
    refused(
        &far,
        &["mixture.epoch=all_exhausted"],
        &["mixture.epoch: with these shares an epoch has"],
    );
    let with = |line: &str| THREE.replacen("[[task]]\n", &format!("[[task]]\n{line}\n"), 1);
    refused(
        &with("repeat = 0.0"),
        &[],
        &["task \"reverse\": repeat must be above 0"],
    );
    refused(
        &with("repeat = inf"),
        &[],
        &["task \"reverse\": repeat must be above 0"],
    );
    refused(&with("cap = 0"), &[], &["task \"reverse\": cap must be at least 1"]);
    refused(
        &with("weight = 0.0"),
        &["mixture.order=cumulative"],
        &["task \"reverse\": weight is 0, and mixture.order = \"cumulative\" begins"],
    );
    refused(
        THREE,
        &["mixture.order=cumulative", "train.steps=2"],
        &["\"cumulative\" has 3 stages, and 2 steps do not give each"],
    );
    refused(
        THREE,
        &["mixture.temperature=0"],
        &["mixture.temperature: must be a positive number"],
    );

    let typed = |tables: &str| {
        let workshop = with_tasks(tables);
        ft_train::RunConfig::load(&workshop.path("run.toml"), &[])
            .unwrap_err()
            .to_string()
    };
    let error = typed(&THREE.replace("name = \"copy\"", "name = \"copy\"\nwegiht = 2"));
    assert!(
        error.contains("run.toml:") && error.contains("`task.wegiht`; did you mean `task.weight`?"),
        "{error}"
    );
    let error = typed("");
    assert!(error.contains("`data.train` is missing"), "{error}");
    let error = typed(&THREE.replace("name = \"copy\"\n", ""));
    assert!(error.contains("`task.name` is missing"), "{error}");
}

#[test]
fn an_unchanged_task_list_resumes_and_a_changed_one_does_not() {
    let workshop = with_tasks(THREE);
    workshop.fit_until("cut", &["eval.samples=0"], 3);
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    // Another place for the same rows is the same run.
    fs::copy(workshop.path("copy.jsonl"), workshop.path("moved.jsonl")).unwrap();
    fs::write(
        &path,
        text.replace("\"copy.jsonl\"", "\"moved.jsonl\"")
            .replace("name = \"shift\"", "loss_weight = 2.0\nname = \"shift\""),
    )
    .unwrap();
    let error = workshop.resume("cut", &["eval.samples=0"]).unwrap_err().to_string();
    assert!(
        error.contains("task.shift.loss_weight: 1.0 -> 2.0") && !error.contains("copy"),
        "{error}"
    );
    let error = workshop
        .resume("cut", &["eval.samples=0", "mixture.order=sequential"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("mixture.order"), "{error}");
    fs::write(&path, text.replace("\"copy.jsonl\"", "\"moved.jsonl\"")).unwrap();
    assert_eq!(workshop.resume("cut", &["eval.samples=0"]).unwrap().steps, 12);
}
