//! Classification from a configuration to what is written.

use std::fs;

use ft_model::{LoadDtype, Model, ModelConfig, Problem};
use serde_json::json;

use crate::support::arrays;
use crate::train_support::Workshop;

const SETS: [&str; 7] = [
    "objective.kind=classify",
    "objective.labels=[\"up\", \"down\"]",
    "data.train=LABELLED",
    "data.valid=LABELLED",
    "data.format=classification",
    "eval.samples=0",
    "optim.lr=5e-2",
];

/// Letters in order are "up", others "down".
fn labelled(workshop: &Workshop, label: impl Fn(bool) -> serde_json::Value) -> Vec<String> {
    let path = workshop.path("labelled.jsonl");
    let lines = (0..24).map(|n| {
        let mut letters = vec!["a", "b", "c", "d", "e", "f"];
        letters.rotate_left(n % 3);
        letters.truncate(3 + n % 3);
        let up = n % 2 == 0;
        if !up {
            letters.reverse();
        }
        json!({ "text": letters.join(" "), "label": label(up) }).to_string() + "\n"
    });
    fs::write(&path, lines.collect::<String>()).unwrap();
    SETS.iter()
        .map(|set| set.replace("LABELLED", &path.display().to_string()))
        .collect()
}

fn named(up: bool) -> serde_json::Value {
    json!(if up { "up" } else { "down" })
}

fn refs(sets: &[String]) -> Vec<&str> {
    sets.iter().map(String::as_str).collect()
}

#[test]
fn a_classifier_learns_and_its_adapter_says_what_it_is() {
    let workshop = Workshop::new();
    let sets = labelled(&workshop, named);
    let outcome = workshop.fit("run", &refs(&sets)).unwrap_or_else(|e| panic!("{e}"));
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert!(after.loss < 0.8 * before.loss, "{} to {}", before.loss, after.loss);
    assert!(after.metrics["accuracy"] >= 0.75, "{:?}", after.metrics);
    let last = workshop
        .metrics("run")
        .into_iter()
        .rfind(|line| line["eval_loss"].is_number())
        .unwrap();
    for name in ["eval_accuracy", "eval_macro_f1", "eval_matthews"] {
        assert!(last[name].as_f64().unwrap() > 0.4, "{last}");
    }
    let folder = workshop.path("run/final");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["task_type"], &config["modules_to_save"]),
        (&json!("SEQ_CLS"), &json!(["score"]))
    );
    let tensors = arrays(&folder.join("adapter_model.safetensors"));
    assert_eq!(tensors["base_model.model.score.weight"].shape, [2, 32]);
    let base = ModelConfig::from_dir(&workshop.path("base")).unwrap();
    let head = base.with_head_of(&folder).unwrap().head.unwrap();
    assert_eq!(head.labels, ["up", "down"]);
}

#[test]
fn a_resumed_classifier_ends_with_the_same_bits() {
    let workshop = Workshop::new();
    let sets = labelled(&workshop, named);
    workshop.fit("whole", &refs(&sets)).unwrap();
    workshop.fit_until("parts", &refs(&sets), 6);
    workshop.resume("parts", &refs(&sets)).unwrap();
    assert_eq!(workshop.result("whole", 12), workshop.result("parts", 12));
    assert_eq!(workshop.curve("whole"), workshop.curve("parts"));
}

#[test]
fn full_fine_tuning_writes_a_checkpoint_with_its_head() {
    let workshop = Workshop::new();
    let mut sets = labelled(&workshop, |up| json!(if up { 1.0 } else { -1.0 }));
    sets[1] = "objective.labels=[\"slope\"]".into();
    sets.extend([
        "peft.method=full".into(),
        "optim.lr=5e-3".into(),
        "data.pack=true".into(),
    ]);
    let outcome = workshop.fit("run", &refs(&sets)).unwrap_or_else(|e| panic!("{e}"));
    assert!(outcome.after.unwrap().metrics.contains_key("spearman"));
    let folder = workshop.path("run/final");
    let model = Model::load(&folder, LoadDtype::F32, &burn::tensor::Device::flex()).unwrap();
    let head = model.head().unwrap();
    assert_eq!(
        (head.labels.as_slice(), head.problem),
        (["slope".to_string()].as_slice(), Problem::Regression)
    );
    let config: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(config["pad_token_id"], 0);
    assert!(!arrays(&folder.join("model.safetensors")).contains_key("lm_head.weight"));
}

#[test]
fn what_cannot_be_classified_is_refused_by_its_key() {
    let workshop = Workshop::new();
    let error = |sets: &[String]| workshop.plan("run", &refs(sets)).unwrap_err().to_string();
    let known = labelled(&workshop, named);
    let mut sets = known.clone();
    sets[1] = "objective.labels=[\"upp\", \"down\"]".into();
    let unknown = error(&sets);
    assert!(
        unknown.contains("`label` is \"up\"") && unknown.contains("did you mean `upp`?"),
        "{unknown}"
    );
    sets[1] = "objective.labels=[]".into();
    assert!(
        error(&sets).contains("objective.labels: name the classes"),
        "{}",
        error(&sets)
    );
    let with = |more: &str| [known.clone(), vec![more.into()]].concat();
    assert!(error(&with("eval.metrics=[\"bleu\"]")).contains("eval.metrics: needs a model that writes text"));
    let tokens = [known[2..].to_vec(), vec!["objective.kind=sft".into()]].concat();
    assert!(
        error(&tokens).contains("objective.kind = \"classify\""),
        "{}",
        error(&tokens)
    );
}
