//! Strategies against forgetting beside other objectives than plain fine-tuning.

use std::fs;

use serde_json::Value;

/// Learning without forgetting beside other objectives: at the first step of a task the model is still the one that it learns from, so that
/// the step is that of plain training; afterwards it is held.
#[test]
fn lwf_stands_beside_every_objective() {
    let workshop = crate::train_objectives::workshop();
    let pairs = |name: &str| {
        format!(
            "[[task]]\nname = \"{name}\"\ntrain = \"train_pairs.jsonl\"\nvalid = \"valid_pairs.jsonl\"\nformat = \"preference\"\n"
        )
    };
    let plain = |name: &str| format!("[[task]]\nname = \"{name}\"\ntrain = \"train.jsonl\"\nvalid = \"valid.jsonl\"\n");
    let text = fs::read_to_string(workshop.path("run.toml")).unwrap();
    let text = text.replace("train = \"train.jsonl\"\nvalid = \"valid.jsonl\"\n", "");
    for (i, kind) in crate::train_objectives::KINDS.iter().enumerate() {
        let preferences = !kind[0].ends_with("distill");
        let tables = match preferences {
            true => pairs("a") + &pairs("b"),
            false => plain("a") + &plain("b"),
        };
        fs::write(workshop.path("run.toml"), format!("{text}\n{tables}")).unwrap();
        let sets = crate::train_objectives::sets(
            &workshop,
            kind,
            &["peft.dropout=0", "eval.samples=0", "train.steps=8", "schedule.warmup=0"],
        );
        let sets: Vec<&str> = sets
            .iter()
            .map(String::as_str)
            .filter(|set| !set.starts_with("data."))
            .collect();
        let run = |out: String, strategy: &[&str]| {
            let sets = [&sets[..], strategy].concat();
            workshop.fit(&out, &sets).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            let lines = workshop.metrics(&out).into_iter().filter(|m| !m["lr"].is_null());
            lines.collect::<Vec<_>>()
        };
        let held = run(format!("lwf{i}"), &["continual.strategy=lwf", "continual.alpha=2"]);
        let free = run(format!("plain{i}"), &["continual.strategy=sequential"]);
        let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{kind:?}: {key}: {line}"));
        for step in 0..5 {
            let (a, b) = (number(&held[step], "loss"), number(&free[step], "loss"));
            assert!(
                (a - b).abs() < 1e-5 * b.abs().max(1.0),
                "{kind:?}: step {step}: {a} and {b}"
            );
        }
        assert!(
            held[3]["from_before"].is_null() && number(&held[4], "from_before").abs() < 1e-6,
            "{kind:?}"
        );
        assert!(number(&held[6], "from_before") > 1e-7, "{kind:?}: {}", held[6]);
        assert_ne!(number(&held[7], "loss"), number(&free[7], "loss"), "{kind:?}");
    }
}
