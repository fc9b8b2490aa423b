//! Hidden states of a student and a teacher of different widths.

use crate::train_objectives::{KINDS, sets, strs, workshop};

/// Maps of hidden states train, are counted, and stay with the run.
#[test]
fn maps_to_another_width_are_of_the_run_alone() {
    let workshop = workshop();
    let kind = KINDS
        .iter()
        .find(|kind| kind.contains(&"objective.teacher=narrow"))
        .unwrap();
    for method in ["peft.method=lora", "peft.method=full"] {
        let with = |kind: &[&str]| sets(&workshop, kind, &[method, "train.steps=3", "eval.samples=0"]);
        let mapped = workshop.plan("mapped", &strs(&with(kind))).unwrap().summary();
        let plain = workshop.plan("plain", &strs(&with(&kind[..2]))).unwrap().summary();
        assert_eq!(mapped.trainable, plain.trainable + 2 * 24 * 32, "{method}");
        assert!(
            mapped.to_string().contains("1,536 in maps of hidden states"),
            "{mapped}"
        );
        assert!(mapped.bytes.optimizer > plain.bytes.optimizer, "{method}");
        workshop.fit(method, &strs(&with(kind))).unwrap();
        let names = |file: &str| {
            let tensors = ft_train::checkpoint::read_tensors(&workshop.path(method).join(file)).unwrap();
            tensors.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let maps = |names: &[String]| names.iter().filter(|name| name.contains("hidden_projections")).count();
        assert_eq!(maps(&names("checkpoints/step-3/trainable.safetensors")), 2, "{method}");
        let result = match method.ends_with("full") {
            true => names("final/model.safetensors"),
            false => names("final/adapter_model.safetensors"),
        };
        assert!(!result.is_empty() && maps(&result) == 0, "{method}: {result:?}");
    }
}
