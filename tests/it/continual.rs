//! Tasks one after the other: the laws of the strategies, and whole runs.

use std::collections::HashSet;
use std::fs;

use serde_json::Value;

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks};

/// Every strategy with options that make it act in runs of twelve steps.
const STRATEGIES: &[&[&str]] = &[
    &["continual.strategy=sequential"],
    &["continual.strategy=joint"],
    &[
        "continual.strategy=replay",
        "continual.ratio=0.6",
        "continual.buffer=10",
    ],
    &[
        "continual.strategy=ewc",
        "continual.lambda=20",
        "continual.fisher_samples=5",
    ],
    &[
        "continual.strategy=ewc",
        "continual.lambda=20",
        "continual.fisher_samples=5",
        "continual.fisher=true",
    ],
    &[
        "continual.strategy=online_ewc",
        "continual.lambda=20",
        "continual.fisher_samples=5",
    ],
    &["continual.strategy=gem", "continual.memories=6"],
    &["continual.strategy=agem", "continual.memories=6", "continual.sample=5"],
    &["continual.strategy=der", "continual.buffer=10", "continual.top_k=5"],
    &["continual.strategy=lwf"],
];

/// Four steps for each of three tasks; a learning rate that makes them disturb each other.
const SETS: &[&str] = &["optim.lr=5e-2", "train.eval_every=4"];

fn fit(workshop: &Workshop, out: &str, sets: &[&str]) -> Value {
    let sets = [SETS, sets].concat();
    workshop.fit(out, &sets).unwrap_or_else(|e| panic!("{sets:?}: {e}"));
    scores(workshop, out)
}

fn scores(workshop: &Workshop, out: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(workshop.path(out).join("continual.json")).unwrap()).unwrap()
}

fn rows(scores: &Value) -> Vec<Vec<f64>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    scores["R"].as_array().unwrap().iter().map(row).collect()
}

/// Stopped where the first task has been evaluated, before its Fisher information is estimated; resumed; stopped in the second
/// task, at its end, and in the third.
#[test]
fn every_strategy_resumes_to_the_byte() {
    for strategy in STRATEGIES {
        let workshop = with_tasks(THREE);
        stopped_equals_left_alone(&workshop, &[SETS, strategy].concat());
        assert_eq!(scores(&workshop, "cut"), scores(&workshop, "alone"), "{strategy:?}");
        let state = |out: &str| fs::read(workshop.path(out).join("checkpoints/step-9/continual.safetensors")).unwrap();
        assert_eq!(state("cut"), state("alone"), "{strategy:?}");
    }
}

/// Full fine-tuning and a base in 4 bits: a strategy sees what trains, whatever it is.
#[test]
fn every_strategy_takes_full_fine_tuning_and_a_base_in_codes() {
    for strategy in STRATEGIES {
        let workshop = with_tasks(THREE);
        let full = [
            strategy,
            &["peft.method=full", "optim.lr=2e-3", "train.optimizer_in_backward=false"][..],
        ]
        .concat();
        let nf4 = [strategy, &["model.quant.kind=nf4"][..]].concat();
        for (name, sets) in [("full", full), ("nf4", nf4)] {
            let scores = fit(&workshop, name, &sets);
            let rows = rows(&scores);
            assert!(
                rows.len() == 3 && rows.iter().flatten().all(|x| x.is_finite()),
                "{sets:?}: {rows:?}"
            );
        }
    }
}

/// Every method, whatever it trains; `adalora` and `trainable_tokens` have options of their own to be given.
#[test]
fn every_strategy_takes_every_method() {
    let workshop = with_tasks(THREE);
    let methods = ft_peft::PeftConfig::NAMES
        .iter()
        .filter(|name| !["adalora", "trainable_tokens"].contains(name));
    for method in methods {
        // The tiny base has no biases, and narrow matrices.
        let own = match *method {
            "bitfit" => continue,
            "oft" => "peft={ method = \"oft\", block_size = 4 }".to_owned(),
            "shira" | "miss" => format!("peft={{ method = \"{method}\", rank = 4 }}"),
            method => format!("peft.method={method}"),
        };
        for (i, strategy) in STRATEGIES.iter().enumerate() {
            let out = format!("{method}{i}");
            let sets = [
                strategy,
                &[
                    &own,
                    "optim.lr=1e-3",
                    "train.steps=6",
                    "train.eval_every=2",
                    "eval.samples=0",
                ][..],
            ]
            .concat();
            let rows = rows(&fit(&workshop, &out, &sets));
            assert!(
                rows.len() == 3 && rows.iter().flatten().all(|x| x.is_finite()),
                "{sets:?}: {rows:?}"
            );
        }
    }
}

#[test]
fn without_anything_to_do_every_strategy_is_plain_training() {
    let workshop = with_tasks(THREE);
    fit(&workshop, "plain", &["continual.strategy=sequential"]);
    let idle: [&[&str]; 6] = [
        &[
            "continual.strategy=ewc",
            "continual.lambda=0",
            "continual.fisher_samples=3",
        ],
        &[
            "continual.strategy=online_ewc",
            "continual.lambda=0",
            "continual.fisher_samples=3",
        ],
        &["continual.strategy=replay", "continual.ratio=0"],
        &["continual.strategy=replay", "continual.ratio=0.001"],
        &["continual.strategy=der", "continual.alpha=0", "continual.beta=0"],
        &["continual.strategy=lwf", "continual.alpha=0"],
    ];
    for (i, sets) in idle.iter().enumerate() {
        let out = format!("idle{i}");
        fit(&workshop, &out, sets);
        assert_eq!(workshop.curve(&out), workshop.curve("plain"), "{sets:?}");
        assert_eq!(workshop.result(&out, 12), workshop.result("plain", 12), "{sets:?}");
    }
    // And each of them does something where there is.
    for (i, sets) in STRATEGIES.iter().enumerate().skip(2) {
        let out = format!("busy{i}");
        fit(&workshop, &out, sets);
        assert_ne!(workshop.result(&out, 12), workshop.result("plain", 12), "{sets:?}");
    }
}

/// The same task twice, a memory of all its samples, every step over all of them: gradients agree.
#[test]
fn without_a_conflict_gem_and_agem_are_plain_training() {
    let twice = "[[task]]\nname = \"a\"\ntrain = \"copy.jsonl\"\nvalid = \"copy_valid.jsonl\"\n";
    let workshop = with_tasks(&format!("{twice}{}", twice.replace("\"a\"", "\"b\"")));
    let all = [
        "train.batch_size=9",
        "train.accumulation=1",
        "peft.dropout=0",
        "train.save_every=4",
    ];
    fit(
        &workshop,
        "plain",
        &[&all[..], &["continual.strategy=sequential"]].concat(),
    );
    for strategy in [
        ["continual.strategy=gem", "continual.memories=9"],
        ["continual.strategy=agem", "continual.memories=9"],
    ] {
        let out = strategy[0].replace('=', "-");
        fit(&workshop, &out, &[&all[..], &strategy].concat());
        let conflicts: f64 = workshop
            .metrics(&out)
            .iter()
            .filter_map(|m| m["conflicts"].as_f64())
            .sum();
        assert_eq!(conflicts, 0.0);
        assert_eq!(workshop.curve(&out), workshop.curve("plain"), "{out}");
        assert_eq!(workshop.result(&out, 12), workshop.result("plain", 12), "{out}");
    }
}

/// The rows of R are the evaluations at the ends of tasks, and everything else is read off them.
#[test]
fn the_scores_are_read_off_the_evaluations() {
    let workshop = with_tasks(THREE);
    fs::write(workshop.path("general.txt"), "turn a b c into\nb c d ;\n").unwrap();
    let general = format!("eval.general={}", workshop.path("general.txt").display());
    let scores = fit(&workshop, "out", &["continual.strategy=sequential", &general]);
    let names = ["reverse", "copy", "shift"];
    assert_eq!(scores["tasks"], serde_json::json!(names));
    assert_eq!(
        (&scores["score"], &scores["strategy"]),
        (&"loss".into(), &"sequential".into())
    );
    let lines = workshop.metrics("out");
    let evaluated = |step: u64| -> Vec<f64> {
        let line = lines
            .iter()
            .find(|m| m["step"] == step && !m["eval_loss"].is_null())
            .unwrap();
        names
            .map(|name| line[format!("eval_loss/{name}")].as_f64().unwrap())
            .to_vec()
    };
    let r = rows(&scores);
    assert_eq!(r, [evaluated(4), evaluated(8), evaluated(12)]);
    let b = evaluated(0);
    let close = |key: &str, expected: f64| {
        let found = scores[key].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{key}: {found} and {expected}");
    };
    close("acc", (r[2][0] + r[2][1] + r[2][2]) / 3.0);
    close("bwt", ((r[2][0] - r[0][0]) + (r[2][1] - r[1][1])) / 2.0);
    close("fwt", ((r[0][1] - b[1]) + (r[1][2] - b[2])) / 2.0);
    close(
        "forgetting",
        ((r[2][0] - r[0][0].min(r[1][0])) + (r[2][1] - r[0][1].min(r[1][1]))) / 2.0,
    );
    let general = |when: &str| scores["general"][when].as_f64().unwrap();
    assert!(general("before") > 1.0 && general("after") > 1.0 && general("before") != general("after"));
    // Each line of the log names its task.
    let trained: Vec<&str> = lines.iter().filter_map(|m| m["task"].as_str()).collect();
    assert_eq!(trained, [["reverse"; 4], ["copy"; 4], ["shift"; 4]].concat());
}

#[test]
fn every_task_has_the_whole_schedule() {
    let workshop = with_tasks(THREE);
    fit(&workshop, "out", &["continual.strategy=sequential"]);
    let rates: Vec<f64> = workshop
        .metrics("out")
        .iter()
        .filter_map(|m| m["lr"].as_f64())
        .collect();
    assert_eq!(rates.len(), 12);
    assert_eq!((&rates[..4], &rates[4..8]), (&rates[4..8], &rates[8..]));
    assert_eq!(rates[0], 0.0, "warm-up");
    let joint = fit(&workshop, "joint", &["continual.strategy=joint"]);
    assert_eq!(rows(&joint).len(), 3);
    let rates: Vec<f64> = workshop
        .metrics("joint")
        .iter()
        .filter_map(|m| m["lr"].as_f64())
        .collect();
    assert!(rates[4] > rates[5] && rates[5] > rates[11], "one schedule: {rates:?}");
}

/// What is fed in a run with replay: the present task's samples, and of earlier ones only training samples.
#[test]
fn no_held_out_row_is_replayed() {
    let workshop = with_tasks(THREE);
    let sets = [
        "continual.strategy=replay",
        "continual.ratio=1",
        "continual.buffer=500",
        "train.dump_batches=fed.jsonl",
    ];
    fit(&workshop, "out", &sets);
    let plan = workshop
        .plan("other", &[SETS, &["continual.strategy=sequential"]].concat())
        .unwrap();
    let train: Vec<Vec<u32>> = plan.train().iter().map(|s| s.ids.to_vec()).collect();
    let held_out: HashSet<Vec<u32>> = plan
        .valid()
        .iter()
        .map(|s| s.ids.to_vec())
        .filter(|ids| !train.contains(ids))
        .collect();
    assert!(held_out.len() > 2, "rows that tell");
    let text = fs::read_to_string(workshop.path("out/fed.jsonl")).unwrap();
    for (step, line) in text.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let batches = line["batches"].as_array().unwrap().iter();
        let rows: Vec<&Value> = batches.flat_map(|batch| batch.as_array().unwrap()).collect();
        let of_task = &train[[0..23, 23..32, 32..46][step / 4].clone()];
        let mut own = 0;
        for row in &rows {
            let ids = row["ids"].as_array().unwrap().iter();
            let ids: Vec<u32> = ids.map(|id| id.as_u64().unwrap() as u32).collect();
            assert!(train.contains(&ids) && !held_out.contains(&ids), "step {step}: {ids:?}");
            own += usize::from(of_task.contains(&ids));
        }
        // Ratio 1: as many again, once a task has ended.
        assert_eq!(rows.len(), if step < 4 { own } else { 2 * own }, "step {step}");
    }
}

/// EWC: Fisher information and anchors, also in every checkpoint; its penalty in a step. GEM: a gradient for every earlier task but
/// the last, whose pass is counted with the step, and the projected one.
#[test]
fn the_plan_counts_what_a_strategy_holds() {
    let workshop = with_tasks(THREE);
    let plan = |sets: &[&str]| workshop.plan("out", &[SETS, sets].concat()).unwrap();
    let plain = plan(&["continual.strategy=sequential"]);
    let numbers = 4 * plain.attached.parameters as u64;
    assert_eq!(plain.bytes.continual, 0);
    let ewc = plan(&["continual.strategy=ewc"]);
    assert_eq!(ewc.bytes.continual, 4 * numbers);
    assert_eq!(ewc.disk.checkpoint - plain.disk.checkpoint, 2 * numbers);
    assert_eq!(plan(&["continual.strategy=gem"]).bytes.continual, 2 * numbers);
    assert_eq!(plan(&["continual.strategy=agem"]).bytes.continual, numbers);
    let lwf = plan(&["continual.strategy=lwf"]);
    assert_eq!(
        (lwf.bytes.continual, lwf.disk.checkpoint),
        (numbers, plain.disk.checkpoint + numbers)
    );
    let der = plan(&["continual.strategy=der", "continual.top_k=5"]);
    let scores = der.bytes.continual - numbers;
    assert_eq!(der.disk.checkpoint, plain.disk.checkpoint + scores);
    fit(&workshop, "der", &["continual.strategy=der", "continual.top_k=5"]);
    let bytes = fs::metadata(workshop.path("der/checkpoints/step-12/continual.safetensors"))
        .unwrap()
        .len();
    // Samples of all lengths, none of which the plan draws.
    assert!(bytes > scores / 2 && bytes < 2 * scores + 1024, "{bytes} for {scores}");
    fit(
        &workshop,
        "ewc",
        &["continual.strategy=ewc", "continual.fisher_samples=2"],
    );
    let file = workshop.path("ewc/checkpoints/step-12/continual.safetensors");
    let bytes = fs::metadata(file).unwrap().len();
    assert!(
        bytes >= 2 * numbers && bytes < 2 * numbers + 16384,
        "{bytes} for {numbers}"
    );
    let report = fs::read_to_string(workshop.path("ewc/report.html")).unwrap();
    assert!(report.contains("Tasks one after the other: ewc"));
}
