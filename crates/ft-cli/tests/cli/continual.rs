//! Runs over tasks, side by side.

use serde_json::Value;

use crate::support::{Bench, ft, json};

/// A run over two tasks with these keys of `[continual]`; its folder.
fn run(bench: &Bench, name: &str, names: [&str; 2], keys: &str) -> String {
    let out = bench.path(name).display().to_string();
    let task = |name: &str, n: usize| {
        let (train, valid) = (bench.samples(&format!("{name}.jsonl"), n), &bench.valid);
        format!("[[task]]\nname = '{name}'\ntrain = '{train}'\nvalid = '{valid}'\n")
    };
    let text = bench
        .text
        .replace("train = 'train.jsonl'\nvalid = 'valid.jsonl'\n", "")
        .replace(&bench.out(), &out);
    let text = format!(
        "{text}{}{}[continual]\n{keys}\n",
        task(names[0], 24),
        task(names[1], 16)
    );
    let config = bench.write(&format!("{name}.toml"), &text);
    let trained = json(&["train", &config, "--json"]);
    assert_eq!(trained["continual"]["tasks"], serde_json::json!(names));
    out
}

#[test]
fn runs_over_tasks_are_compared() {
    let bench = Bench::new();
    let tasks = ["doors", "keys"];
    let floor = run(&bench, "floor", tasks, "strategy = 'sequential'");
    let apart = run(&bench, "apart", tasks, "strategy = 'adapters'");
    let folded = run(&bench, "folded", tasks, "strategy = 'replay'\nbetween_tasks = 'fold'");

    let found = json(&["continual", "compare", &floor, &apart, &folded, "--json"]);
    let runs = found["runs"].as_array().unwrap();
    for (entry, folder) in runs.iter().zip([&floor, &apart, &folded]) {
        let file = std::fs::read_to_string(format!("{folder}/continual.json")).unwrap();
        let written: Value = serde_json::from_str(&file).unwrap();
        assert_eq!((&entry["run"], &entry["scores"]), (&folder.as_str().into(), &written));
    }
    let of = |run: usize, key: &str| runs[run]["scores"][key].clone();
    assert_eq!((of(1, "bwt"), of(1, "forgetting")), (0.0.into(), 0.0.into()));
    let between: Vec<Value> = (0..3).map(|run| of(run, "between_tasks")).collect();
    assert_eq!(between, ["continue", "separate", "fold"]);

    let text = ft(&["continual", "compare", &floor, &apart]).ok();
    let bwt = format!("{:.4}", of(0, "bwt").as_f64().unwrap());
    let line = |word: &str| text.lines().find(|line| line.contains(word)).unwrap().to_owned();
    assert!(line("sequential").contains(&bwt), "{text}");
    assert!(line("adapters ").contains("0.0000"), "{text}");
    assert!(text.contains("doors") && text.contains("0 by construction"), "{text}");

    // A run whose result is an adapter for each task is no one model; the folder of one is.
    let several = ft(&["eval", &apart, "--data", &bench.valid]);
    assert_eq!(several.code, 1);
    assert!(
        several.stderr.contains("name one of them, such as"),
        "{}",
        several.stderr
    );
    let last = runs[1]["scores"]["R"][1][1].as_f64().unwrap();
    let own = json(&["eval", &format!("{apart}/final/keys"), "--data", &bench.valid, "--json"]);
    assert!((own["loss"].as_f64().unwrap() - last).abs() < 1e-4 * last, "{own}");
    // What was folded is a whole model.
    let whole = json(&["eval", &folded, "--data", &bench.valid, "--json"]);
    let last = runs[2]["scores"]["R"][1][1].as_f64().unwrap();
    assert!((whole["loss"].as_f64().unwrap() - last).abs() < 1e-4 * last, "{whole}");
}

#[test]
fn runs_that_do_not_compare_are_named() {
    let bench = Bench::new();
    let one = run(&bench, "one", ["doors", "keys"], "strategy = 'sequential'");
    let turned = run(&bench, "turned", ["keys", "doors"], "strategy = 'sequential'");
    let refused = ft(&["continual", "compare", &one, &turned]);
    assert_eq!(refused.code, 2);
    assert!(
        refused
            .stderr
            .contains("only runs over the same tasks in the same order compare"),
        "{}",
        refused.stderr
    );
    let none = ft(&["continual", "compare", &bench.path("").display().to_string()]);
    assert_eq!(none.code, 1);
    assert!(none.stderr.contains("continual.json"), "{}", none.stderr);
    assert_eq!(ft(&["continual", "compare"]).code, 2);
}
