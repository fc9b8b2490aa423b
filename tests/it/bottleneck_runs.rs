//! Training bottleneck adapters: what holds for LoRA's runs holds for theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ft_train::checkpoint::read_tensors;

use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;

const HOULSBY: [&str; 3] = ["peft.method=houlsby", "peft.reduction_factor=4", "peft.dropout=0.1"];
const PARALLEL: [&str; 2] = ["peft.method=parallel", "peft.mh_adapter=true"];

fn with<'s>(method: &[&'s str], sets: &[&'s str]) -> Vec<&'s str> {
    [method, sets].concat()
}

#[test]
fn a_run_that_is_stopped_and_resumed_is_the_run_left_alone() {
    stopped_equals_left_alone(&Workshop::new(), &HOULSBY);
    stopped_equals_left_alone(&Workshop::new(), &with(&PARALLEL, &["train.checkpointing=1"]));
}

#[test]
fn it_learns_and_only_the_adapter_is_saved() {
    let workshop = Workshop::new();
    for (method, rate) in [("pfeiffer", "2e-2"), ("houlsby", "2e-2"), ("parallel", "1e-2")] {
        let sets = [
            format!("peft.method={method}"),
            "peft.reduction_factor=2".into(),
            format!("optim.lr={rate}"),
            "train.steps=40".into(),
            "eval.samples=0".into(),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let outcome = workshop.fit(method, &sets).unwrap();
        let (before, after) = (outcome.before.unwrap().loss, outcome.after.unwrap().loss);
        assert!(after < 0.7 * before, "{method}: {before} to {after}");
        let files = |folder: &Path| -> Vec<String> {
            let names = fs::read_dir(folder).unwrap().flatten();
            let mut names: Vec<String> = names.map(|e| e.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let made = files(&workshop.path(method).join("final"));
        assert!(made.contains(&"adapter.safetensors".to_owned()), "{made:?}");
        assert!(!made.contains(&"adapter_model.safetensors".to_owned()), "{made:?}");
    }
}

/// Whatever the micro-batches, and whether blocks are computed again, the steps are the same.
#[test]
fn accumulation_takes_the_same_steps_as_a_larger_batch() {
    let workshop = Workshop::new();
    let common = ["train.steps=6", "optim.lr=1e-3", "eval.samples=0"];
    let method = ["peft.method=houlsby", "peft.reduction_factor=4"];
    let mut results = Vec::new();
    for (out, shape) in [
        (
            "whole",
            [
                "train.batch_size=6",
                "train.accumulation=1",
                "train.checkpointing=\"off\"",
            ],
        ),
        (
            "thirds",
            [
                "train.batch_size=2",
                "train.accumulation=3",
                "train.checkpointing=\"off\"",
            ],
        ),
        (
            "again",
            ["train.batch_size=3", "train.accumulation=2", "train.checkpointing=1"],
        ),
    ] {
        let sets = with(&with(&method, &common), &shape);
        workshop.fit(out, &sets).unwrap();
        let last = workshop.path(out).join("checkpoints/step-6/trainable.safetensors");
        results.push(read_tensors(&last).unwrap().into_iter().collect::<BTreeMap<_, _>>());
    }
    for other in &results[1..] {
        assert_eq!(results[0].len(), other.len());
        for ((name, a), (same, b)) in results[0].iter().zip(other) {
            assert_eq!(name, same);
            let worst = a
                .iter::<f32>()
                .zip(b.iter::<f32>())
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-5, "{name} differs by {worst}");
        }
    }
}

#[test]
fn the_best_evaluation_is_restored() {
    let workshop = Workshop::new();
    // Held-out answers that the training samples argue against: it gets worse here.
    let line = "{\"prompt\": \"turn a b c into =\", \"completion\": \"; ; ;\"}\n";
    fs::write(workshop.path("valid.jsonl"), line.repeat(3)).unwrap();
    let sets = [
        "optim.lr=0.02",
        "schedule.kind=constant",
        "schedule.warmup=0",
        "train.steps=20",
        "train.eval_every=1",
        "train.save_every=20",
        "train.keep=1",
        "train.load_best=true",
        "train.check_gradients=false",
    ];
    let outcome = workshop.fit("out", &with(&PARALLEL, &sets)).unwrap();
    let best = outcome.best.unwrap();
    assert!(best.step < 20, "the best step is {}", best.step);
    assert_eq!(outcome.after.unwrap().loss, best.loss);
    let tensors = |folder: &str| fs::read(workshop.path("out").join(folder).join("adapter.safetensors")).unwrap();
    assert_eq!(tensors("final"), tensors(&format!("checkpoints/step-{}", best.step)));
    assert_ne!(tensors("final"), tensors("checkpoints/step-20"));
}

/// `peft.from` takes a folder of ours and one of the library's.
#[test]
fn an_adapterhub_folder_can_be_the_start_of_another_run() {
    let workshop = Workshop::new();
    let first = workshop.fit("first", &with(&HOULSBY, &["peft.dropout=0"])).unwrap();
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    let own = "rank = 4\ndropout = 0.1\n";
    assert!(text.contains(own));
    fs::write(&path, text.replace(own, "from = \"first/final\"\n")).unwrap();
    let plan = workshop.plan("second", &[]).unwrap();
    assert_eq!(plan.peft.name(), "houlsby");
    let second = workshop.fit("second", &["train.steps=4"]).unwrap();
    let (end, start) = (first.after.unwrap().loss, second.before.unwrap().loss);
    assert!((end - start).abs() < 1e-9, "{end} and {start}");
}
