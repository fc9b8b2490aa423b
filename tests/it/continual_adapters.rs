//! A fresh adapter for each task: folded into the base, frozen beside the next, or put aside.

use std::fs;

use serde_json::Value;

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks};

/// Four steps for each of three tasks.
const SETS: &[&str] = &["optim.lr=5e-2", "train.eval_every=4"];

const OLORA: &str = "continual.strategy=olora";
const ADAPTERS: &str = "continual.strategy=adapters";
const FOLD: &str = "continual.between_tasks=fold";

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

/// The loss of held-out samples in a run that takes no step, from a model or an adapter in a folder.
fn loss_of(workshop: &Workshop, out: &str, sets: &[&str], task: &str) -> f64 {
    let all = [
        SETS,
        &["continual.strategy=sequential", "optim.lr=1e-30", "schedule.warmup=0"],
        sets,
    ];
    workshop.fit(out, &all.concat()).unwrap();
    let first = workshop
        .metrics(out)
        .into_iter()
        .find(|line| line["step"] == 0)
        .unwrap();
    first[format!("eval_loss/{task}")].as_f64().unwrap()
}

#[test]
fn every_way_resumes_to_the_byte() {
    for strategy in [
        &[OLORA][..],
        &[ADAPTERS],
        &["continual.strategy=sequential", FOLD],
        &["continual.strategy=gem", "continual.memories=6", FOLD],
        &[
            "continual.strategy=der",
            "continual.buffer=10",
            "continual.top_k=5",
            FOLD,
        ],
    ] {
        let workshop = with_tasks(THREE);
        stopped_equals_left_alone(&workshop, &[SETS, strategy].concat());
        assert_eq!(scores(&workshop, "cut"), scores(&workshop, "alone"), "{strategy:?}");
        for file in ["continual", "earlier_tasks"] {
            let state = |out: &str| {
                fs::read(
                    workshop
                        .path(out)
                        .join(format!("checkpoints/step-9/{file}.safetensors")),
                )
                .unwrap()
            };
            assert_eq!(state("cut"), state("alone"), "{strategy:?}");
        }
    }
}

/// What is written is what was scored last.
#[test]
fn the_result_of_every_way_is_the_model_of_the_last_row() {
    let workshop = with_tasks(THREE);
    let path = |name: &str| workshop.path(name).display().to_string();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * b, "{a} and {b}");

    let last = rows(&fit(&workshop, "olora", &[OLORA]))[2].clone();
    let from = format!("peft.from={}", path("olora/final"));
    close(loss_of(&workshop, "olora2", &[&from], "reverse"), last[0]);
    let text = fs::read_to_string(workshop.path("olora/final/adapter_config.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&written["r"], &written["peft_type"]), (&12.into(), &"LORA".into()));

    let folded = fit(&workshop, "fold", &["continual.strategy=sequential", FOLD]);
    assert_eq!(folded["between_tasks"], "fold");
    let model = format!("model.path={}", path("fold/final"));
    close(loss_of(&workshop, "fold2", &[&model], "copy"), rows(&folded)[2][1]);
    assert!(!workshop.path("fold/checkpoints/step-12/adapter_config.json").exists());

    let apart = fit(&workshop, "apart", &[ADAPTERS]);
    for (j, task) in ["reverse", "copy", "shift"].into_iter().enumerate() {
        let from = format!("peft.from={}", path(&format!("apart/final/{task}")));
        close(
            loss_of(&workshop, &format!("apart-{task}"), &[&from], task),
            rows(&apart)[2][j],
        );
    }
}

/// LoRA in its variants: what is written is what was scored last.
#[test]
fn stacked_adapters_of_every_kind_of_lora_are_one_lora() {
    let workshop = with_tasks(THREE);
    let variants: [&[&str]; 4] = [
        &["peft.rslora=true"],
        &["peft.loraplus_lr_ratio=4"],
        &["peft.rank_pattern={ q_proj = 2 }", "peft.alpha_pattern={ q_proj = 3 }"],
        &["peft.targets=[\"q_proj\", \"down_proj\"]", "peft.init=gaussian"],
    ];
    for (i, variant) in variants.iter().enumerate() {
        let out = format!("run{i}");
        let last = rows(&fit(&workshop, &out, &[&[OLORA, "peft.rank=3"], *variant].concat()))[2].clone();
        let from = format!("peft.from={}", workshop.path(&format!("{out}/final")).display());
        for (j, task) in ["reverse", "copy", "shift"].into_iter().enumerate() {
            let found = loss_of(&workshop, &format!("{out}-{task}"), &[&from], task);
            assert!(
                (found - last[j]).abs() < 1e-4 * last[j],
                "{variant:?}: {task}: {found} and {last:?}"
            );
        }
    }
}

/// A task has its own adapter before it begins, while it trains and after it: BWT and forgetting are 0, to the bit, and so is FWT.
#[test]
fn with_an_adapter_for_each_task_nothing_is_forgotten_and_the_report_says_why() {
    let workshop = with_tasks(THREE);
    fs::write(workshop.path("general.txt"), "turn a b c into\nb c d ;\n").unwrap();
    let general = format!("eval.general={}", workshop.path("general.txt").display());
    let scores = fit(&workshop, "out", &[ADAPTERS, &general, "eval.samples=3"]);
    let (r, start) = (rows(&scores), &scores["start"]);
    for j in 0..3 {
        for (i, row) in r.iter().enumerate() {
            let expected = if i >= j { r[j][j] } else { start[j].as_f64().unwrap() };
            assert_eq!(row[j], expected, "R[{i}][{j}]");
        }
        assert!(r[j][j] < start[j].as_f64().unwrap(), "task {j} was learned");
    }
    let zero = |key: &str| assert_eq!(scores[key], 0.0, "{key}");
    ["bwt", "fwt", "forgetting"].into_iter().for_each(zero);
    assert_eq!(scores["general"]["before"], scores["general"]["after"]);
    assert_eq!(scores["between_tasks"], "separate");
    let report = fs::read_to_string(workshop.path("out/report.html")).unwrap();
    assert!(report.contains("0 by construction"));
    let before = fs::read_to_string(workshop.path("out/before.json")).unwrap();
    let before: Value = serde_json::from_str(&before).unwrap();
    assert_eq!(before["samples"].as_array().unwrap().len(), 3, "one of each task");
}

/// Without a penalty, adapters one behind the other are adapters folded into the base; and the first task is plain training, to the bit.
#[test]
fn without_a_penalty_frozen_adapters_are_folded_ones() {
    let workshop = with_tasks(THREE);
    let frozen = rows(&fit(
        &workshop,
        "frozen",
        &[OLORA, "continual.lambda=0", "peft.dropout=0"],
    ));
    let folded = rows(&fit(
        &workshop,
        "folded",
        &["continual.strategy=sequential", FOLD, "peft.dropout=0"],
    ));
    let plain = rows(&fit(
        &workshop,
        "plain",
        &["continual.strategy=sequential", "peft.dropout=0"],
    ));
    let alone = rows(&fit(&workshop, "alone", &[ADAPTERS, "peft.dropout=0"]));
    for (a, b) in frozen.iter().flatten().zip(folded.iter().flatten()) {
        assert!((a - b).abs() < 2e-3 * b, "{frozen:?} and {folded:?}");
    }
    assert_eq!(
        (&frozen[0], &folded[0], alone[0][0]),
        (&plain[0], &plain[0], plain[0][0])
    );
    assert_ne!(folded[1], plain[1], "a fresh adapter is another one");
    assert!(workshop.metrics("frozen").iter().all(|line| line["overlap"].is_null()));
}

/// With a penalty, the subspace of the second task leaves that of the first.
#[test]
fn the_penalty_parts_the_subspaces() {
    let workshop = with_tasks(THREE);
    let overlap = |out: &str, lambda: &str| {
        fit(&workshop, out, &[OLORA, lambda, "optim.lr=5e-3"]);
        let line = workshop
            .metrics(out)
            .into_iter()
            .find(|line| line["step"] == 8 && !line["overlap"].is_null());
        line.unwrap()["overlap"].as_f64().unwrap()
    };
    let (free, held) = (
        overlap("free", "continual.lambda=1e-9"),
        overlap("held", "continual.lambda=1"),
    );
    assert!(held < 0.9 * free, "{held} and {free}");
}

/// Over every storage that can hold the base.
#[test]
fn frozen_and_separate_adapters_take_a_base_in_codes_and_in_16_bits() {
    let workshop = with_tasks(THREE);
    for (name, storage) in [
        ("nf4", "model.quant.kind=nf4"),
        ("int8", "model.quant.kind=int8"),
        ("bf16", "model.dtype=bf16"),
    ] {
        for strategy in [OLORA, ADAPTERS] {
            let out = format!("{name}-{}", strategy.rsplit('=').next().unwrap());
            let rows = rows(&fit(&workshop, &out, &[strategy, storage]));
            assert!(
                rows.len() == 3 && rows.iter().flatten().all(|x| x.is_finite()),
                "{out}: {rows:?}"
            );
        }
    }
    for method in ["ia3", "pfeiffer", "prefix_tuning", "vera"] {
        let method = format!("peft.method={method}");
        let scores = fit(&workshop, &method, &[ADAPTERS, &method, "optim.lr=5e-3"]);
        assert_eq!(scores["bwt"], 0.0, "{method}");
    }
    for method in ["lora", "ia3", "loha"] {
        let (out, method) = (format!("fold-{method}"), format!("peft.method={method}"));
        fit(
            &workshop,
            &out,
            &["continual.strategy=replay", FOLD, &method, "optim.lr=5e-3"],
        );
    }
}

#[test]
fn a_fresh_adapter_that_cannot_be_is_named_with_the_way_out() {
    let workshop = with_tasks(THREE);
    let refused = |sets: &[&str], expected: &str| {
        let error = workshop.plan("out", sets).unwrap_err().to_string();
        assert!(error.contains(expected), "{sets:?}: {error}");
    };
    refused(&[OLORA, "peft.method=ia3"], "\"ia3\" does not stack; take \"lora\"");
    refused(&[OLORA, "peft.dora=true"], "peft.dora");
    refused(&[OLORA, "peft.init=pissa"], "peft.init: moves the base");
    refused(
        &[OLORA, "peft.rank=12"],
        "the adapters of 3 tasks have rank 36 together",
    );
    refused(
        &[OLORA, "continual.lambda=nan"],
        "continual.lambda: must be a number of at least 0",
    );
    refused(&[ADAPTERS, "peft.method=full"], "trains tensors of the base itself");
    refused(&[ADAPTERS, "peft.init=olora"], "moves the base at the start");
    refused(&[ADAPTERS, "eval.metrics=[\"exact_match\"]"], "task.metrics");
    refused(&[ADAPTERS, "peft.method=adalora"], "one schedule for the whole run");
    refused(
        &["continual.strategy=ewc", FOLD],
        "holds what trains to the values of the adapter before",
    );
    refused(
        &["continual.strategy=lwf", FOLD],
        "holds what trains to the values of the adapter before",
    );
    refused(
        &["continual.strategy=replay", FOLD, "model.quant.kind=nf4"],
        "held in less than f32",
    );
    refused(
        &["continual.strategy=replay", FOLD, "model.dtype=bf16"],
        "held in less than f32",
    );
    refused(
        &["continual.strategy=replay", FOLD, "peft.method=pfeiffer"],
        "no weight can stand for",
    );
    let from = format!(
        "peft.from={}",
        crate::support::fixture("peft/lora_all_rslora").display()
    );
    refused(&[ADAPTERS, &from], "peft.from names one");
}

/// Adapters of earlier tasks, in memory and in the last checkpoint.
#[test]
fn the_plan_counts_the_adapters_of_earlier_tasks() {
    let workshop = with_tasks(THREE);
    let plan = |sets: &[&str]| workshop.plan("out", &[SETS, sets].concat()).unwrap();
    let plain = plan(&["continual.strategy=sequential"]);
    let numbers = 4 * plain.attached.parameters as u64;
    assert_eq!(plan(&[ADAPTERS]).bytes.continual, 2 * numbers);
    assert_eq!(plan(&[OLORA]).bytes.continual, 6 * numbers);
    for (out, sets) in [
        ("a", &[ADAPTERS][..]),
        ("o", &[OLORA]),
        ("f", &["continual.strategy=sequential", FOLD]),
    ] {
        let planned = plan(sets).disk.checkpoint;
        fit(&workshop, out, sets);
        let files = fs::read_dir(workshop.path(out).join("checkpoints/step-12")).unwrap();
        let found: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(
            found <= planned && planned < found + 64 * 1024 + numbers,
            "{out}: {found} and {planned}"
        );
    }
}
