//! What a plan refuses, and what it promises.

use std::fs;

use ft_train::checkpoint::read_tensors;
use ft_train::{Error, FitOptions, fit};

use crate::train_support::Workshop;

#[test]
fn plans_that_cannot_run_are_refused_with_all_reasons() {
    let workshop = Workshop::new();
    let refused = |sets: &[&str]| workshop.plan("out", sets).unwrap_err().to_string();
    assert!(
        refused(&["peft.targets=[\"q_prj\"]"]).contains("q_proj"),
        "the nearest paths"
    );
    assert!(refused(&["schedule.warmup=13"]).contains("schedule.warmup"));
    assert!(refused(&["model.path=nowhere"]).contains("model.path: nowhere does not exist"));
    assert!(refused(&["data.train=nowhere.jsonl"]).contains("data.train: no file nowhere.jsonl"));
    assert!(refused(&["data.max_length=1"]).contains("data.max_length"));
    let message = refused(&["train.batch_size=0", "train.keep=0"]);
    assert!(
        message.contains("train.batch_size") && message.contains("train.keep"),
        "{message}"
    );
    let message = workshop_without_valid().unwrap_err().to_string();
    assert!(
        message.contains("train.early_stopping needs held-out samples") && message.contains("train.load_best needs"),
        "{message}"
    );
}

fn workshop_without_valid() -> ft_train::Result<ft_train::Plan> {
    let workshop = Workshop::new();
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("valid = \"valid.jsonl\"\n", "")).unwrap();
    workshop.plan("out", &["train.load_best=true", "train.early_stopping.patience=1"])
}

#[test]
fn ids_the_model_does_not_know_and_samples_too_long_for_it_are_refused() {
    let workshop = Workshop::new();
    let path = workshop.path("base/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"c\":6", "\"c\":106")).unwrap();
    let message = workshop.plan("out", &[]).unwrap_err().to_string();
    assert!(
        message.contains("token id 106, but the model knows 96 ids"),
        "{message}"
    );
    fs::write(&path, text).unwrap();

    let long = vec!["a b c d"; 60].join(" ");
    fs::write(
        workshop.path("train.jsonl"),
        format!("{{\"prompt\": \"{long}\", \"completion\": \"a\"}}\n"),
    )
    .unwrap();
    let message = workshop.plan("out", &[]).unwrap_err().to_string();
    assert!(
        message.contains("longer than the 128 positions") && message.contains("data.max_length = 128"),
        "{message}"
    );
}

#[test]
fn answers_without_a_stop_token_are_refused() {
    let workshop = Workshop::new();
    let line = "{\"prompt\": \"turn a b c\", \"completion\": \"c b a\"}\n";
    for name in ["train.jsonl", "valid.jsonl"] {
        fs::write(workshop.path(name), line.repeat(4)).unwrap();
    }
    let message = workshop.plan("out", &["data.max_length=5"]).unwrap_err().to_string();
    assert!(message.contains("the model would never stop"), "{message}");
}

#[test]
fn a_double_bos_and_ends_that_generation_does_not_heed_are_refused() {
    let workshop = Workshop::new();
    // <s> turn a into b </s>
    let sample = |ids: &[u32], learned: usize| {
        let labels = ids.iter().enumerate().map(|(i, id)| match i < ids.len() - learned {
            true => -100,
            false => i64::from(*id),
        });
        let labels: Vec<i64> = labels.collect();
        serde_json::json!({ "input_ids": ids, "labels": labels }).to_string() + "\n"
    };
    let plan = |lines: String, sets: &[&str]| {
        for name in ["train.jsonl", "valid.jsonl"] {
            fs::write(workshop.path(name), &lines).unwrap();
        }
        workshop.plan("out", &[&["data.format=pre-tokenized"], sets].concat())
    };
    let plain = sample(&[1, 12, 4, 13, 5, 2], 2);
    plan(plain.clone(), &[]).unwrap();
    let twice = sample(&[1, 1, 12, 4, 13, 5, 2], 2);
    let message = plan(plain.clone() + &twice, &[]).unwrap_err().to_string();
    assert!(
        message.contains("1 training samples begin with two BOS tokens"),
        "{message}"
    );
    plan(plain.clone() + &twice, &["train.force=true"]).unwrap();

    let other = sample(&[1, 12, 4, 13, 5, 3], 2);
    let message = plan(plain.repeat(2) + &other, &[]).unwrap_err().to_string();
    assert!(
        message.contains("some answers end in <unk>, at which generation does not stop"),
        "{message}"
    );
    // The one end of all answers is written into the model's generation_config.json.
    let plan = plan(other, &[]).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.contains("will list \"<unk>\" (3)")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn hostile_data_and_checkpoints_are_typed_errors() {
    let workshop = Workshop::new();
    fs::write(
        workshop.path("train.jsonl"),
        b"{\"prompt\": \"a\xff\", \"completion\": \"b\"}\n",
    )
    .unwrap();
    assert!(matches!(workshop.plan("out", &[]).unwrap_err(), Error::Data(_)));
    fs::write(workshop.path("train.jsonl"), "").unwrap();
    assert!(
        workshop
            .plan("out", &[])
            .unwrap_err()
            .to_string()
            .contains("train.jsonl")
    );

    let workshop = Workshop::new();
    let weights = workshop.path("base/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(workshop.fit("out", &[]).unwrap_err(), Error::Model(_)));
    fs::write(workshop.path("base/config.json"), "{\"model_type\": \"llama\"}").unwrap();
    assert!(matches!(workshop.plan("out", &[]).unwrap_err(), Error::Model(_)));
}

#[test]
fn a_split_of_the_training_file_serves_as_held_out_samples() {
    let workshop = Workshop::new();
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("valid = \"valid.jsonl\"\n", "valid_split = 0.2\n")).unwrap();
    let plan = workshop.plan("out", &[]).unwrap();
    assert_eq!(plan.train().len() + plan.valid().len(), 23);
    assert!(!plan.valid().is_empty());
}

#[test]
fn the_plan_tells_what_the_run_then_does() {
    let workshop = Workshop::new();
    let plan = workshop.plan("out", &[]).unwrap();
    let summary = plan.summary();
    assert_eq!((summary.steps.total, summary.steps.per_epoch), (12, 6));
    let text = summary.to_string();
    for part in [
        "llama",
        "lora",
        "23 samples (prompt-completion)",
        "steps      12",
        "activations",
    ] {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
    let json = serde_json::to_value(&summary).unwrap();
    let sum_so_far = 4 * summary.trainable as u64;
    assert!(json["bytes"]["gradients"].as_u64().unwrap() >= sum_so_far, "{json}");
    let outcome = fit(plan, FitOptions::default()).unwrap();
    assert_eq!(outcome.planned_memory_bytes, summary.bytes_total);
    let report = std::fs::read_to_string(workshop.path("out/report.html")).unwrap();
    assert!(
        report.contains("planned"),
        "the report compares the plan with what was measured"
    );
    assert_eq!(
        (outcome.steps, outcome.trainable),
        (summary.steps.total, summary.trainable)
    );
    let saved = read_tensors(&workshop.path("out/checkpoints/step-12/trainable.safetensors")).unwrap();
    let numbers: usize = saved
        .iter()
        .map(|(_, data)| data.shape().iter().product::<usize>())
        .sum();
    assert_eq!(numbers, summary.trainable);
    let moments = read_tensors(&workshop.path("out/checkpoints/step-12/optimizer.safetensors")).unwrap();
    let bytes: usize = moments.iter().map(|(_, data)| data.as_bytes().len()).sum();
    assert_eq!(bytes as u64, summary.bytes.optimizer);
}

#[test]
fn a_run_that_does_not_fit_is_told_what_to_change() {
    let workshop = Workshop::new();
    let sets = ["train.batch_size=8", "train.accumulation=1"];
    let all = workshop.plan("out", &sets).unwrap();
    assert!(all.advice.is_empty());
    // A little less than it needs: smaller micro-batches are enough.
    let tight = format!("train.memory={}B", all.bytes.total() - 1);
    let plan = workshop.plan("out", &[&sets[..], &[&tight]].concat()).unwrap();
    let summary = plan.summary();
    assert_eq!(summary.fits, Some(false));
    assert_eq!(plan.advice[0].change, "train.batch_size=4 train.accumulation=2");
    assert!(
        plan.advice[0].bytes < all.bytes.total() && plan.advice.len() == 1,
        "{:?}",
        plan.advice
    );
    assert!(summary.to_string().contains("train.batch_size=4"), "{summary}");
    // Nothing would do: everything is told, in order.
    let plan = workshop
        .plan("out", &[&sets[..], &["train.memory=1KB"]].concat())
        .unwrap();
    let changes: Vec<&str> = plan.advice.iter().map(|advice| advice.change.as_str()).collect();
    assert_eq!(
        changes[..3],
        [
            "train.batch_size=1 train.accumulation=8",
            "train.checkpointing=1",
            "model.quant.kind=nf4"
        ]
    );
    let message = workshop.plan("out", &["train.memory=much"]).unwrap_err().to_string();
    assert!(message.contains("train.memory") && message.contains("8GB"), "{message}");
}

#[test]
fn an_automatic_batch_is_the_largest_that_fits_and_keeps_the_step() {
    let workshop = Workshop::new();
    let auto = |memory: &str| {
        let sets = ["train.batch_size='auto'", "train.accumulation=2", memory];
        let plan = workshop.plan("auto", &sets).unwrap();
        let train = &plan.config.train;
        (train.batch_size.count(), train.accumulation, plan.bytes.total())
    };
    let (size, accumulation, bytes) = auto("train.memory=8GB");
    assert_eq!((size, accumulation), (16, 1), "8 times the accumulation, in one piece");
    let (size, accumulation, less) = auto(&format!("train.memory={}B", bytes - 1));
    assert!(
        size < 16 && size * accumulation == 16 && less < bytes,
        "{size} x {accumulation}, {less} of {bytes}"
    );
    assert_eq!(auto("train.memory=1KB").0, 1);
}

#[test]
fn a_resumed_run_keeps_the_batch_it_chose() {
    let workshop = Workshop::new();
    let common = ["train.batch_size='auto'", "train.accumulation=1", "train.steps=6"];
    let first = [&common[..], &["train.memory=1KB"]].concat();
    workshop.fit_until("auto", &first, 3);
    let later = [&common[..], &["train.memory=8GB"]].concat();
    let plan = workshop.plan("auto", &later).unwrap();
    assert_eq!(
        (plan.config.train.batch_size.count(), plan.config.train.accumulation),
        (1, 8)
    );
    assert_eq!(workshop.resume("auto", &later).unwrap().steps, 6);
}
