//! Runs whose teacher has another tokenizer. What holds for every objective holds for these in `train_objectives`.

use std::fs;

use serde_json::{Value, json};

use crate::train_objectives::{copy, sets, strs, workshop};
use crate::train_support::Workshop;

/// Puts the folder `stranger` into the workshop: a teacher, trained with these options, that reads characters, of which some go with the
/// space before them.
pub fn add_stranger(workshop: &Workshop, sets: &[&str]) {
    copy(&workshop.path("base"), &workshop.path("characters"));
    fs::write(workshop.path("characters/tokenizer.json"), characters().to_string()).unwrap();
    let path = format!("model.path={}", workshop.path("characters").display());
    workshop.fit("sft2", &[sets, &[&path]].concat()).unwrap();
    copy(&workshop.path("sft2/final"), &workshop.path("stranger"));
}

/// Byte-level BPE over the workshop's characters, with a space before three of them.
fn characters() -> Value {
    let specials = ["<pad>", "<s>", "</s>", "<unk>"];
    let added = specials.iter().enumerate().map(|(id, token)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let characters = "\u{120}abcdefghturnio=;".chars().map(String::from);
    let merged = ["a", "b", "c"].map(|letter| format!("\u{120}{letter}"));
    let tokens = specials.map(String::from).into_iter().chain(characters).chain(merged);
    let vocab: serde_json::Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "vocab": vocab, "merges": ["\u{120} a", "\u{120} b", "\u{120} c"] }
    })
}

/// A teacher that reads characters, beside a student that reads words.
#[test]
fn a_teacher_with_another_tokenizer_is_planned_and_logged() {
    let workshop = workshop();
    let kind = ["objective.kind=distill", "objective.teacher=stranger"];
    let sets = sets(&workshop, &kind, &["eval.samples=0", "train.steps=2"]);
    let plan = workshop.plan("plan", &strs(&sets)).unwrap();
    let alignment = plan.alignment.unwrap();
    assert_eq!(alignment.aligned, 1.0);
    assert!(alignment.teacher_tokens > 1.5, "{alignment:?}");
    let text = plan.summary().to_string();
    assert!(text.contains("teacher    100.0 % of the target tokens"), "{text}");
    let error = ft_train::write_teacher_cache(&plan, 4, &workshop.path("scores")).unwrap_err();
    assert!(
        error.to_string().contains("objective.teacher: has another tokenizer"),
        "{error}"
    );
    let error = ft_train::write_teacher_answers(&plan, &workshop.path("answers")).unwrap_err();
    assert!(
        error.to_string().contains("objective.teacher: has another tokenizer"),
        "{error}"
    );
    workshop.fit("run", &strs(&sets)).unwrap();
    let logged = workshop.metrics("run");
    assert!(
        logged[1]["uld"]
            .as_f64()
            .is_some_and(|distance| distance > 0.0 && distance < 2.0),
        "{logged:?}"
    );
    let config = fs::read_to_string(workshop.path("run/config.toml")).unwrap();
    assert!(config.contains("divergence = \"uld\""), "{config}");
    let teacher = format!("objective.teacher={}", workshop.path("teacher").display());
    let plan = workshop.plan("same", &["objective.kind=distill", &teacher]).unwrap();
    assert_eq!(plan.alignment, None);
    assert!(plan.config.to_toml(None).contains("divergence = \"kl\""));
}

#[test]
fn what_a_teacher_with_another_tokenizer_cannot_do_is_named() {
    let workshop = workshop();
    let error = |sets: &[&str]| {
        workshop
            .plan("out", sets)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    let stranger = format!("objective.teacher={}", workshop.path("stranger").display());
    for (more, expected) in [
        ("objective.lambda=0.5", "objective.lambda: the student's own answers"),
        ("objective.beta=0.5", "objective.beta: chooses among KL divergences"),
        ("objective.t_squared=true", "objective.t_squared: "),
        (
            "objective.hidden_layers=[[1, 1]]",
            "objective.hidden_layers: pairs hidden states",
        ),
        ("data.overlong=split", "data.overlong"),
    ] {
        let text = error(&["objective.kind=distill", &stranger, more]);
        assert!(text.contains(expected), "{more}: {text}");
    }
    let text = error(&[
        "objective.kind=distill",
        "objective.teacher=base",
        "objective.divergence=uld",
    ]);
    assert!(text.contains("\"base\" has the student's own tokenizer"), "{text}");
    // A tokenizer that leaves spaces out reads another text.
    let tokenizer = workshop.path("stranger/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
    json["normalizer"] = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "" });
    fs::write(&tokenizer, json.to_string()).unwrap();
    let text = error(&["objective.kind=distill", &stranger]);
    assert!(
        text.contains("% of the target tokens lie in") && text.contains("at least 50 %"),
        "{text}"
    );
}
