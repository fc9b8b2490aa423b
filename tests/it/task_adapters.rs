//! An adapter for each task of a mixture, over one base: `mixture.adapter = "per_task"`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks, write_tasks};

const OWN: &str = "mixture.adapter=per_task";

/// Tasks with their files and training samples.
const TASKS: [(&str, &str, &str, usize); 3] = [
    ("reverse", "train.jsonl", "valid.jsonl", 23),
    ("copy", "copy.jsonl", "copy_valid.jsonl", 9),
    ("shift", "shift.jsonl", "shift_valid.jsonl", 14),
];

/// Steps over all samples of all tasks, in the order of the files: every task alone has the same ones then.
const WHOLE: &[&str] = &[
    "data.shuffle=false",
    "train.batch_size=5",
    "train.accumulation=10",
    "eval.samples=0",
];

fn weights(folder: &Path) -> Vec<u8> {
    let names = ["adapter_model.safetensors", "adapter.safetensors"];
    let found = names.iter().find_map(|name| fs::read(folder.join(name)).ok());
    found.unwrap_or_else(|| panic!("{}: no adapter", folder.display()))
}

/// Dropout, clipping, moments and micro-batches of its own: to the bit what the task alone comes to.
#[test]
fn every_task_trains_as_if_it_were_alone() {
    let variants: [&[&str]; 8] = [
        &[],
        &["optim.clip=0.01", "data.pack=false"],
        &["train.checkpointing=1", "peft.loraplus_lr_ratio=4"],
        &["model.quant.kind=nf4", "optim.kind=sgd"],
        &["peft.method=ia3"],
        &["peft.method=pfeiffer"],
        &["peft.method=prompt_tuning", "peft.num_virtual_tokens=2"],
        &["peft.dora=true"],
    ];
    for (i, variant) in variants.iter().enumerate() {
        let workshop = with_tasks(THREE);
        let sets = [WHOLE, variant, &["train.steps=5", "schedule.warmup=1"]].concat();
        let outcome = workshop.fit("all", &[&sets[..], &[OWN]].concat());
        let outcome = outcome.unwrap_or_else(|e| panic!("{variant:?}: {e}"));
        for (task, train, valid, samples) in TASKS {
            let alone = Workshop::new();
            write_tasks(&alone);
            let data = ["train", "valid"].map(|key| {
                let file = if key == "train" { train } else { valid };
                format!("data.{key}={}", alone.path(file).display())
            });
            let accumulation = format!("train.accumulation={}", samples.div_ceil(5));
            let own = [&sets[..], &[&data[0], &data[1], &accumulation]].concat();
            let loss = alone.fit("one", &own).unwrap().after.unwrap().loss;
            assert!(
                weights(&workshop.path(&format!("all/final/{task}"))) == weights(&alone.path("one/final")),
                "{variant:?}: {task}"
            );
            let found = outcome.after.as_ref().unwrap().tasks[task];
            assert!((found - loss).abs() < 1e-6, "variant {i}: {task}: {found} and {loss}");
        }
    }
}

#[test]
fn it_resumes_to_the_byte() {
    for sets in [
        &[OWN][..],
        &[
            OWN,
            "mixture.by=temperature",
            "mixture.epoch=first_exhausted",
            "train.checkpointing=1",
        ],
        &[OWN, "train.load_best=true", "train.best_by=copy", "optim.lr=0.2"],
    ] {
        let workshop = with_tasks(THREE);
        stopped_equals_left_alone(&workshop, sets);
        for step in [9, 12] {
            let file = format!("checkpoints/step-{step}/task_adapters.safetensors");
            let state = |out: &str| fs::read(workshop.path(out).join(&file)).unwrap();
            assert!(state("cut") == state("alone"), "{sets:?}: step {step}");
        }
    }
}

/// The first step of a mixture has the loss that it has with one adapter: both are the base with the same starting values.
#[test]
fn the_loss_of_a_step_is_that_of_all_its_tokens() {
    let workshop = with_tasks(THREE);
    let sets = [
        "peft.dropout=0",
        "train.steps=3",
        "train.batch_size=23",
        "schedule.warmup=0",
    ];
    workshop.fit("shared", &sets).unwrap();
    workshop.fit("own", &[&sets[..], &[OWN]].concat()).unwrap();
    let first = |out: &str| workshop.metrics(out)[1]["loss"].as_f64().unwrap();
    assert!((first("own") - first("shared")).abs() < 1e-6);
    let norms = |out: &str| workshop.metrics(out)[1]["grad_norm"].as_f64().unwrap();
    assert!(norms("own") > norms("shared"), "three means of their own");
    let tokens = |out: &str| workshop.metrics(out)[1]["tokens"].clone();
    assert_eq!(tokens("own"), tokens("shared"));
}

/// Each folder of the result is the adapter that its task was evaluated with last.
#[test]
fn the_result_is_a_folder_for_every_task() {
    let workshop = with_tasks(THREE);
    let after = workshop.fit("out", &[OWN]).unwrap().after.unwrap();
    for (task, ..) in TASKS {
        let from = format!("peft.from={}", workshop.path(&format!("out/final/{task}")).display());
        let out = format!("again-{task}");
        let sets = [
            &from,
            "train.steps=1",
            "optim.lr=1e-30",
            "schedule.warmup=0",
            "eval.samples=0",
        ];
        workshop.fit(&out, &sets).unwrap();
        let first = workshop.metrics(&out)[0][format!("eval_loss/{task}")].as_f64().unwrap();
        assert!(
            (first - after.tasks[task]).abs() < 1e-5,
            "{task}: {first} and {after:?}"
        );
        assert!(workshop.path(&format!("out/final/{task}/tokenizer.json")).exists());
    }
}

/// `load_best` takes every task's adapter from the same evaluation.
#[test]
fn the_best_of_all_adapters_is_of_one_evaluation() {
    let workshop = with_tasks(THREE);
    let sets = [
        OWN,
        "optim.lr=0.3",
        "train.eval_every=1",
        "train.load_best=true",
        "eval.samples=0",
    ];
    for by in ["macro", "copy"] {
        let by_key = format!("train.best_by={by}");
        let outcome = workshop.fit(by, &[&sets[..], &[by_key.as_str()]].concat()).unwrap();
        let best = outcome.best.unwrap().step;
        assert!(best < 12, "{by}: the last is the best, which says nothing");
        let lines = workshop.metrics(by);
        let line = lines
            .iter()
            .find(|m| m["step"] == best && !m["eval_loss"].is_null())
            .unwrap();
        for (task, ..) in TASKS {
            let from = format!("peft.from={}", workshop.path(&format!("{by}/final/{task}")).display());
            let out = format!("{by}-{task}");
            let again = [
                &from,
                "train.steps=1",
                "optim.lr=1e-30",
                "schedule.warmup=0",
                "eval.samples=0",
            ];
            workshop.fit(&out, &again).unwrap();
            let key = format!("eval_loss/{task}");
            let [found, expected] = [&workshop.metrics(&out)[0], line].map(|m| m[&key].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-5, "{by}: {task}: {found} and {expected}");
        }
    }
}

/// Values, gradients and moments of three adapters; a checkpoint that holds them.
#[test]
fn the_plan_counts_every_adapter() {
    let workshop = with_tasks(THREE);
    let [shared, own] = [&[][..], &[OWN]].map(|sets| workshop.plan("out", sets).unwrap());
    let numbers = 4 * shared.attached.parameters as u64;
    assert_eq!(own.bytes.adapters, 3 * shared.bytes.adapters);
    assert_eq!(own.bytes.optimizer, 3 * shared.bytes.optimizer);
    assert_eq!(own.bytes.gradients, shared.bytes.gradients + 2 * numbers);
    let text = own.summary().to_string();
    assert!(
        text.contains("adapters   3, one for each task, over one base"),
        "{text}"
    );
    workshop.fit("out", &[OWN]).unwrap();
    let size = |folder: &str| -> u64 {
        let files = fs::read_dir(workshop.path(folder)).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let found = size("out/checkpoints/step-12");
    let planned = own.disk.checkpoint;
    assert!(
        found <= planned && planned < found + 64 * 1024 + numbers,
        "{found} and {planned}"
    );
}

#[test]
fn what_cannot_be_is_named_with_the_way_out() {
    let workshop = with_tasks(THREE);
    let refused = |sets: &[&str], expected: &str| {
        let error = workshop.plan("out", &[sets, &[OWN]].concat()).unwrap_err().to_string();
        assert!(error.contains(expected), "{sets:?}: {error}");
    };
    refused(
        &["peft.method=full"],
        "mixture.adapter: \"per_task\" wants an adapter for each task, and peft.method = \"full\" trains tensors of the base itself",
    );
    refused(
        &["peft.modules_to_save=[\"embed_tokens\"]"],
        "trains tensors of the base itself",
    );
    refused(&["peft.method=adalora"], "one schedule for the whole run");
    refused(&["peft.init=pissa"], "peft.init moves the base at the start");
    refused(
        &["train.dump_batches=fed.jsonl"],
        "train.dump_batches is read as the steps of one",
    );
    refused(&["continual.strategy=joint"], "continual.strategy = \"adapters\"");
    refused(&["eval.metrics=[\"exact_match\"]"], "task.metrics");
    let inside = [
        "train.optimizer_in_backward=true",
        "train.checkpointing=1",
        "optim.clip=0",
        "train.accumulation=1",
    ];
    refused(&inside, "set train.optimizer_in_backward = false");
    let plain = Workshop::new();
    let error = plain.plan("out", &[OWN]).unwrap_err().to_string();
    assert!(error.contains("mixture: there is nothing to mix"), "{error}");
}

/// The metrics of every task, of all their answers and on average, at every evaluation; each of them can say what is best.
#[test]
fn every_evaluation_reports_the_metrics_of_tasks() {
    let metrics =
        |name: &str, text: &str| text.replace(name, &format!("{name}metrics = [\"exact_match\", \"bleu\"]\n"));
    let tables = metrics("name = \"reverse\"\n", &metrics("name = \"copy\"\n", THREE));
    for (out, more) in [("shared", ""), ("own", OWN)] {
        let workshop = with_tasks(&tables);
        let sets: Vec<&str> = [
            "optim.lr=0.1",
            "train.eval_every=2",
            "train.load_best=true",
            "train.best_by=exact_match/copy",
        ]
        .into_iter()
        .chain(Some(more).filter(|set| !set.is_empty()))
        .collect();
        let outcome = workshop.fit(out, &sets).unwrap();
        let lines: Vec<Value> = workshop
            .metrics(out)
            .into_iter()
            .filter(|m| !m["eval_loss"].is_null())
            .collect();
        assert_eq!(lines.len(), 7, "before the first step and after every second");
        let of = |line: &Value, name: &str| {
            line[format!("eval_{name}")]
                .as_f64()
                .unwrap_or_else(|| panic!("{name}: {line}"))
        };
        for line in &lines {
            let [a, b] = ["reverse", "copy"].map(|task| of(line, &format!("exact_match/{task}")));
            assert!((of(line, "exact_match_macro") - (a + b) / 2.0).abs() < 1e-12);
            // Seven prompts and five.
            assert!(
                (of(line, "exact_match_micro") - (7.0 * a + 5.0 * b) / 12.0).abs() < 1e-12,
                "{line}"
            );
            of(line, "bleu_micro");
            assert!(line["eval_exact_match/shift"].is_null());
        }
        let best = lines[1..].iter().rev().max_by(|a, b| {
            let [a, b] = [a, b].map(|line| of(line, "exact_match/copy"));
            a.total_cmp(&b)
        });
        // The first of equals.
        let best = best.unwrap();
        let found = outcome.best.unwrap().step as u64;
        assert_eq!(best["step"].as_u64().unwrap(), found, "{out}");
        let after = outcome.after.unwrap();
        assert_eq!(after.metrics["exact_match/copy"], of(best, "exact_match/copy"));
        assert_eq!(
            outcome.before.unwrap().metrics["exact_match/copy"],
            of(&lines[0], "exact_match/copy")
        );
    }
}

#[test]
fn early_stopping_goes_by_a_metric() {
    let workshop = with_tasks(&THREE.replace("name = \"copy\"\n", "name = \"copy\"\nmetrics = [\"exact_match\"]\n"));
    // At a rate of next to nothing no answer changes.
    let sets = [
        "optim.lr=1e-9",
        "train.eval_every=1",
        "train.early_stopping.patience=2",
        "train.best_by=exact_match_macro",
    ];
    assert_eq!(
        workshop.fit("out", &sets).unwrap().steps,
        3,
        "one to improve on, two that do not"
    );
    let error = workshop
        .plan("no", &["train.best_by=bleu/copy"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no task and no metric of one \"bleu/copy\"") && error.contains("\"exact_match_micro\""),
        "{error}"
    );
    let choices = with_tasks(&THREE.replace("name = \"copy\"\n", "name = \"copy\"\nmetrics = [\"acc\"]\n"));
    let error = choices.plan("no", &[]).unwrap_err().to_string();
    assert!(
        error.contains("task \"copy\": metrics: \"acc\" is of multiple-choice questions"),
        "{error}"
    );
}
