//! Steps that go wrong, and what keeps a model from learning its samples by heart.

use std::fs;

use ft_train::Error;
use serde_json::{Value, json};

use crate::train_support::Workshop;

/// A base that answers "h" with NaN, and one training sample of 24 that holds it.
fn with_a_bad_sample() -> Workshop {
    let workshop = Workshop::new();
    let weights = workshop.path("base/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let table = &entries["model.embed_tokens.weight"];
    let (start, width) = (
        table["data_offsets"][0].as_u64().unwrap(),
        table["shape"][1].as_u64().unwrap(),
    );
    let h = 11; // after four special tokens and seven letters
    let row = 8 + header + (start + h * width * 4) as usize;
    for number in bytes[row..row + width as usize * 4].chunks_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(weights, bytes).unwrap();
    let sample = |n: usize| {
        let (x, y) = (
            ["a", "b", "c", "d", "e", "f"][n % 6],
            ["b", "d", "f", "a", "g", "c"][n / 4 % 6],
        );
        let (x, y) = if n == 9 { ("h", "a") } else { (x, y) };
        format!(
            "{}\n",
            json!({ "prompt": format!("turn {x} {y} into ="), "completion": format!("{y} {x}") })
        )
    };
    fs::write(workshop.path("train.jsonl"), (0..24).map(sample).collect::<String>()).unwrap();
    fs::write(workshop.path("valid.jsonl"), (30..34).map(sample).collect::<String>()).unwrap();
    workshop
}

#[test]
fn a_bad_step_is_skipped_counted_and_its_samples_kept() {
    let workshop = with_a_bad_sample();
    // Six steps an epoch, two epochs: the sample comes twice.
    workshop.fit("alone", &[]).unwrap();
    let lines = workshop.metrics("alone");
    let last = lines.iter().rfind(|line| line["lr"].is_number()).unwrap();
    assert_eq!(last["skipped"], json!(2), "{last}");
    let trained: Vec<_> = lines.iter().filter(|line| line["lr"].is_number()).collect();
    let unlearned = trained.iter().filter(|line| line["loss"].is_null()).count();
    assert_eq!((trained.len(), unlearned), (12, 2), "a skipped step has no loss");
    assert!(
        lines
            .iter()
            .filter_map(|line| line["eval_loss"].as_f64())
            .all(f64::is_finite)
    );

    let files = fs::read_dir(workshop.path("alone/bad_steps")).unwrap();
    let files: Vec<Value> = files
        .map(|file| serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap())
        .collect();
    assert_eq!(files.len(), 2);
    for file in &files {
        assert_eq!(file["loss"], "NaN");
        let samples = file["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 4);
        let bad = samples
            .iter()
            .filter(|s| s["text"].as_str().unwrap().contains("turn h a into"))
            .count();
        assert_eq!(bad, 1, "{samples:?}");
        assert!(samples[0]["ids"].is_array() && samples[0]["learn"].is_array());
    }

    // Stopped between the two and resumed: the same weights, the same count.
    workshop.fit_until("cut", &[], 6);
    workshop.resume("cut", &[]).unwrap();
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    assert_eq!(workshop.curve("cut"), workshop.curve("alone"));
    assert_eq!(
        workshop.metrics("cut").last().unwrap()["skipped"],
        workshop.metrics("alone").last().unwrap()["skipped"]
    );
}

#[test]
fn too_many_bad_steps_in_a_row_stop_the_run() {
    let workshop = with_a_bad_sample();
    let error = workshop.fit("out", &["train.max_bad_steps=1"]).unwrap_err();
    assert!(matches!(error, Error::NotFinite { count: 1, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("bad_steps") && text.contains("loss NaN") && text.contains("optim.lr"),
        "{text}"
    );

    let error = workshop.fit("off", &["train.max_bad_steps=0"]).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
}

/// The loss of the first step and the evaluation before it.
fn first(workshop: &Workshop, out: &str, sets: &[&str]) -> (f64, f64) {
    workshop
        .fit(
            out,
            &[&["train.steps=2", "eval.samples=0", "peft.dropout=0"], sets].concat(),
        )
        .unwrap();
    let lines = workshop.metrics(out);
    let of = |key: &str| lines.iter().find_map(|line| line[key].as_f64()).unwrap();
    (of("loss"), of("eval_loss"))
}

#[test]
fn smoothing_is_in_the_training_loss_alone_and_goes_through_an_adapted_head() {
    let workshop = Workshop::new();
    let plain = first(&workshop, "plain", &[]);
    let smooth = first(&workshop, "smooth", &["objective.label_smoothing=0.2"]);
    assert_eq!(plain.1, smooth.1);
    assert!((plain.0 - smooth.0).abs() > 1e-4, "{plain:?}, {smooth:?}");
    // An adapter on the head starts as the identity, and takes the path that holds the logits.
    let head = first(
        &workshop,
        "head",
        &["objective.label_smoothing=0.2", "peft.targets=[\"lm_head\"]"],
    );
    assert!((head.0 - smooth.0).abs() < 1e-5, "{head:?}, {smooth:?}");

    let error = workshop
        .plan("bad", &["objective.label_smoothing=1", "objective.neftune_alpha=-1"])
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("objective.label_smoothing: must") && text.contains("objective.neftune_alpha: must"),
        "{text}"
    );
}

#[test]
fn neftune_is_in_training_alone_and_resumes_exactly() {
    let workshop = Workshop::new();
    let noisy = ["objective.neftune_alpha=5"];
    let (plain, noise) = (first(&workshop, "plain", &[]), first(&workshop, "noise", &noisy));
    assert_eq!(plain.1, noise.1);
    assert!((plain.0 - noise.0).abs() > 1e-4, "{plain:?}, {noise:?}");
    assert_eq!(first(&workshop, "again", &noisy), noise);

    workshop.fit("alone", &noisy).unwrap();
    workshop.fit_until("cut", &noisy, 3);
    workshop.resume("cut", &noisy).unwrap();
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    // Blocks that are computed again start from the same noise.
    let again = [noisy[0], "train.checkpointing=1", "peft.dropout=0"];
    let kept = [noisy[0], "peft.dropout=0"];
    workshop.fit("again-12", &again).unwrap();
    workshop.fit("kept-12", &kept).unwrap();
    for (a, b) in workshop.curve("again-12").iter().zip(workshop.curve("kept-12")) {
        let (Some(a), Some(b)) = (a.1, b.1) else { continue };
        assert!((a - b).abs() < 1e-4, "{a}, {b}");
    }
}
