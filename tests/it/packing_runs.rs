//! Whole runs whose samples share rows: the loss of a step is what it is unpacked, and a run resumes to the bit.

use std::fs;

use ft_train::Ending;
use serde_json::{Value, json};

use crate::train_objectives::{KINDS, sets, strs, workshop};
use crate::train_resume::stopped_equals_left_alone;
use crate::train_support::Workshop;

/// All samples in one step: what a step is made of is then the same however samples share rows.
const WHOLE: [&str; 5] = [
    "peft.dropout=0",
    "train.batch_size=64",
    "train.accumulation=1",
    "train.steps=4",
    "eval.samples=0",
];

fn losses(workshop: &Workshop, out: &str) -> Vec<f64> {
    let curve = workshop.curve(out);
    curve
        .iter()
        .map(|(_, loss, held_out)| loss.or(*held_out).unwrap())
        .collect()
}

fn near(plain: &[f64], other: &[f64], what: &str) {
    let pairs = plain.iter().zip(other);
    let far = pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f64::max);
    assert!(
        plain.len() == other.len() && far < 2e-5,
        "{what}: {far:e}, {plain:?} {other:?}"
    );
}

#[test]
fn every_objective_takes_the_same_steps_packed() {
    let workshop = workshop();
    for (i, kind) in KINDS.iter().enumerate() {
        let run = |name: &str, more: &[&str]| {
            let (sets, out) = (sets(&workshop, kind, &[&WHOLE, more].concat()), format!("{name}{i}"));
            let plan = workshop
                .plan(&out, &strs(&sets))
                .unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            let rows = plan.summary().batch_rows;
            workshop
                .fit(&out, &strs(&sets))
                .unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            (rows, losses(&workshop, &out))
        };
        let (rows, plain) = run("plain", &["data.pack=false"]);
        let (fewer, packed) = run("packed", &["data.pack=true", "data.max_length=48"]);
        assert!(fewer * 2 <= rows, "{kind:?}: {fewer} rows of {rows}");
        // Draws of the student's own answers, and KTO's estimate from neighbours, depend on the order of the samples.
        let ordered = kind.iter().any(|set| set.contains("lambda") || set.contains("kto"));
        if !ordered {
            near(&plain, &packed, &format!("{kind:?}"));
        }
        let (shared, passes) = run("passes", &["data.pack=auto", "data.max_length=128"]);
        assert!(shared * 2 <= rows, "{kind:?}: {shared} rows of {rows}");
        near(&plain, &passes, &format!("{kind:?}, in passes"));
    }
}

/// Two steps of plain gradient descent: what they leave are the gradients themselves.
#[test]
fn every_objective_has_the_same_gradients_packed() {
    let workshop = workshop();
    let descent = [
        "optim.kind=sgd",
        "optim.weight_decay=0",
        "schedule.kind=constant",
        "schedule.warmup=0",
    ];
    for (i, kind) in KINDS.iter().enumerate() {
        let run = |name: &str, more: &[&str]| {
            let mut sets = sets(&workshop, kind, &[&WHOLE, &descent[..], more].concat());
            sets.extend(["optim.lr=0.5".to_owned(), "train.steps=2".into()]);
            let out = format!("{name}{i}");
            workshop
                .fit(&out, &strs(&sets))
                .unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            let file = workshop.path(&out).join("checkpoints/step-2/trainable.safetensors");
            let mut tensors = ft_train::checkpoint::read_tensors(&file).unwrap();
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            tensors
        };
        let plain = run("straight", &["data.pack=false"]);
        // Draws of the student's own answers, and KTO's estimate from neighbours, depend on the order of the samples.
        let ordered = kind.iter().any(|set| set.contains("lambda") || set.contains("kto"));
        let rows: &[&str] = &["data.pack=true", "data.max_length=48"];
        let passes: &[&str] = &["data.pack=auto", "data.max_length=128"];
        for more in [rows, passes].into_iter().skip(usize::from(ordered)) {
            let packed = run(more[0].trim_start_matches("data.pack="), more);
            assert_eq!(plain.len(), packed.len());
            let mut largest = 0f32;
            for ((name, a), (other, b)) in plain.iter().zip(&packed) {
                assert_eq!(name, other);
                let [a, b] = [a, b].map(|data| data.try_to_vec::<f32>().unwrap());
                let scale = a.iter().fold(0f32, |most, x| most.max(x.abs()));
                let far = a.iter().zip(&b).fold(0f32, |most, (x, y)| most.max((x - y).abs()));
                assert!(
                    far <= 1e-5 * scale.max(1e-2),
                    "{kind:?}, {more:?}, {name}: {far:e} of {scale:e}"
                );
                // Where adapters start at zero, all of them is steps.
                largest = largest.max(if name.ends_with("delta.b") { scale } else { 0.0 });
            }
            assert!(largest > 1e-3, "{kind:?}: {largest:e}");
        }
    }
}

#[test]
fn packed_runs_resume_to_the_bit() {
    stopped_equals_left_alone(&Workshop::new(), &["data.pack=true", "data.max_length=24"]);
    stopped_equals_left_alone(
        &Workshop::new(),
        &[
            "data.pack=true",
            "data.max_length=24",
            "data.shuffle=false",
            "train.checkpointing=1",
        ],
    );
    stopped_equals_left_alone(
        &Workshop::new(),
        &["data.pack=auto", "train.batch_size=5", "data.shuffle=false"],
    );
}

#[test]
fn a_plan_counts_packed_rows() {
    let workshop = Workshop::new();
    let plan = |sets: &[&str]| workshop.plan("out", sets).unwrap().summary();
    let padded = plan(&["data.pack=false"]);
    let packed = plan(&["data.pack=true", "data.max_length=64"]);
    assert!(packed.steps.per_epoch * 2 <= padded.steps.per_epoch);
    assert!(packed.batch_width > padded.batch_width && packed.batch_width <= 64);
    assert!(
        packed.bytes.activations > padded.bytes.activations,
        "the memory is that of the rows"
    );
    let json = serde_json::to_value(&packed).unwrap();
    assert_eq!(json["packing"]["kind"], "rows");
    assert_eq!(json["packing"]["length"], 64);
    assert!(json["packing"]["filled"].as_f64().unwrap() > 0.8, "{}", json["packing"]);
    let text = packed.to_string();
    assert!(
        text.contains("packing    rows of 64 (data.pack = true)") && text.contains("a step learns from about"),
        "{text}"
    );
    assert!(padded.to_string().contains("packing    off (data.pack = false)"));
}

#[test]
fn what_cannot_share_rows_is_refused_or_left_alone() {
    let workshop = Workshop::new();
    let noise = "objective.neftune_alpha=5";
    let message = workshop
        .plan("out", &["data.pack=true", noise])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("data.pack") && message.contains("neftune_alpha"),
        "{message}"
    );
    let plan = workshop.plan("out", &["data.pack=auto", noise]).unwrap().summary();
    assert_eq!(serde_json::to_value(&plan.packing).unwrap()["kind"], "off");
    let plan = workshop
        .plan("out", &["data.pack=auto", "data.max_length=12"])
        .unwrap()
        .summary();
    assert!(
        plan.to_string().contains("are not short against data.max_length = 12"),
        "{plan}"
    );
}

#[test]
fn every_sample_of_every_epoch_is_learned_from_once() {
    let workshop = Workshop::new();
    let sets = [
        "data.pack=true",
        "data.max_length=40",
        "train.dump_batches=dump.jsonl",
        "train.batch_size=1",
        "train.accumulation=2",
    ];
    let outcome = workshop.fit("out", &sets).unwrap();
    assert_eq!(outcome.ending, Ending::Finished);
    let per_epoch = workshop.plan("plan", &sets).unwrap().steps.per_epoch;
    let text = fs::read_to_string(workshop.path("out/dump.jsonl")).unwrap();
    let steps: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen = |steps: &[Value]| {
        let batches = steps.iter().flat_map(|step| step["batches"].as_array().unwrap());
        let rows = batches.flat_map(|batch| batch.as_array().unwrap());
        let mut rows: Vec<String> = rows.map(|row| row["ids"].to_string()).collect();
        rows.sort();
        rows
    };
    let plan = workshop.plan("samples", &sets).unwrap();
    let mut all: Vec<String> = plan
        .train()
        .iter()
        .map(|sample| json!(&sample.ids[..]).to_string())
        .collect();
    all.sort();
    assert_eq!(seen(&steps[..per_epoch]), all, "the first epoch");
    assert_eq!(seen(&steps[per_epoch..2 * per_epoch]), all, "the second epoch");
}
