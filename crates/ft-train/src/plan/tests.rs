use std::path::Path;

use ft_model::ModelConfig;

use super::*;
use crate::objectives::ObjectiveConfig;

fn config(sets: &[&str]) -> RunConfig {
    let text = "[model]\npath = 'base'\n[data]\ntrain = 'x.jsonl'\n".to_owned();
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    RunConfig::parse(Path::new("run.toml"), text, &sets).unwrap()
}

fn steps(sets: &[&str], per_epoch: usize) -> Steps {
    Steps::count(&config(sets), per_epoch, true)
}

#[test]
fn steps_are_counted_from_steps_or_epochs() {
    assert_eq!(steps(&[], 7).total, 7, "one epoch where nothing is said");
    assert_eq!(steps(&["train.epochs=2.5"], 7).total, 18);
    assert_eq!(steps(&["train.epochs=0.01"], 7).total, 1);
    let counted = steps(&["train.steps=10"], 4);
    assert_eq!(
        (counted.total, counted.epochs, counted.eval_every, counted.save_every),
        (10, 2.5, 4, 4)
    );
    let warm = steps(&["train.steps=10", "schedule.warmup=0.25"], 4);
    assert_eq!((warm.warmup, warm.lr(0), warm.lr(3)), (3, 0.0, 2e-4));
    assert_eq!(steps(&["train.steps=10", "train.eval_every=99"], 4).eval_every, 10);
}

#[test]
fn evaluations_and_checkpoints_fall_where_they_should() {
    let steps = steps(&["train.steps=10", "train.eval_every=4", "train.save_every=3"], 5);
    let at = |pick: &dyn Fn(usize) -> bool| (0..=10).filter(|s| pick(*s)).collect::<Vec<_>>();
    assert_eq!(at(&|s| steps.evaluates_at(s)), [0, 4, 8, 10]);
    assert_eq!(at(&|s| steps.saves_at(s)), [3, 6, 9, 10]);
    let none = Steps::count(&config(&["train.steps=10"]), 5, false);
    assert_eq!(at(&|s| none.evaluates_at(s)), [0usize; 0]);
}

#[test]
fn a_random_start_is_for_full_fine_tuning() {
    let message = checks::numbers(&config(&["model.init=true"])).unwrap_err().to_string();
    assert!(message.contains("peft.method = \"full\""), "{message}");
    checks::numbers(&config(&["model.init=true", "peft.method=full"])).unwrap();
}

#[test]
fn numbers_that_cannot_be_are_refused_together() {
    let sets = [
        "train.batch_size=0",
        "train.steps=0",
        "train.epochs=-1",
        "train.keep=0",
        "eval.metrics=[\"blue\"]",
        "optim.lr=-1",
        "data.max_length=1",
    ];
    let message = checks::numbers(&config(&sets)).unwrap_err().to_string();
    for part in [
        "train.batch_size",
        "train.steps: must",
        "exclude each other",
        "train.epochs",
        "train.keep",
        "eval.metrics",
        "optim.lr",
        "data.max_length",
    ] {
        assert!(message.contains(part), "{part} is missing from {message}");
    }
    assert!(
        checks::numbers(&config(&["optim.lr=-1"]))
            .unwrap_err()
            .to_string()
            .contains("optim.lr")
    );
}

const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 100, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;

fn bytes_of(sets: &[&str], accumulates: bool, batch: (usize, usize)) -> (Bytes, Attached) {
    let model = ModelConfig::from_json(LLAMA, Path::new("config.json")).unwrap();
    let config = config(sets);
    let peft = job::method(&config.peft).unwrap();
    let attached = job::preview(&model, &peft).unwrap();
    let job = job::Job {
        device: &DeviceTraits::of(&Device::flex(), "cpu"),
        model: &model,
        folder: Path::new("."),
        peft: &peft,
        attached: &attached,
        projections: &[],
        objective: &ObjectiveConfig::default(),
        optim: &config.optim,
        dtype: LoadDtype::F32,
        compute: None,
        quant: config.model.quant,
        accumulates,
        kept: Default::default(),
        checkpointing: config.train.checkpointing,
        in_backward: config.train.optimizer_in_backward,
        runtime: 7,
        batch,
        alignment: None,
    };
    (job::bytes(&job).unwrap(), attached)
}

#[test]
fn exact_parts_are_exact() {
    // Two blocks of q 16x16, k and v 8x16, o 16x16, gate and up 24x16, down 16x24; rank 8 on all seven.
    let block: u64 = 16 * 16 * 2 + 8 * 16 * 2 + 3 * 24 * 16;
    let base = 4 * (100 * 16 + 2 * (block + 2 * 16) + 16);
    let lora: u64 = 2 * 8 * ((16 + 16) * 2 + (8 + 16) * 2 + 3 * (24 + 16));
    let (bytes, attached) = bytes_of(&["peft.rank=8"], false, (2, 10));
    assert_eq!(attached.parameters as u64, lora);
    assert_eq!((bytes.weights, bytes.adapters, bytes.runtime), (base, 4 * lora, 7));
    assert_eq!(
        bytes.optimizer,
        8 * (lora + 2 * 7 * 2),
        "two moments, and a count for each A and B"
    );
    let summed = bytes_of(&["peft.rank=8"], true, (2, 10)).0;
    assert_eq!(
        summed.gradients - bytes.gradients,
        4 * lora,
        "the sum of earlier micro-batches"
    );
    let parts: u64 = bytes.parts().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(parts, bytes.total());

    let (full, _) = bytes_of(&["peft.method=full"], false, (2, 10));
    assert_eq!((full.weights, full.adapters), (base, 0));
}

#[test]
fn activations_grow_with_tokens_and_logits_stop_at_a_chunk() {
    let at = |rows, width| bytes_of(&["peft.rank=8"], false, (rows, width)).0;
    assert_eq!(at(4, 10).activations, 2 * at(2, 10).activations);
    assert_eq!(at(1, 100).logits, 4 * 100 * 100);
    assert_eq!(at(16, 100).logits, at(32, 100).logits);
}

#[test]
fn checkpointing_keeps_less_the_shorter_its_segments() {
    let with = |set: &str| bytes_of(&["peft.rank=8", set], false, (8, 100)).0.activations;
    let kept = [
        "train.checkpointing=1",
        "train.checkpointing=2",
        "train.checkpointing='off'",
    ]
    .map(with);
    assert!(kept[0] < kept[1] && kept[0] < kept[2], "{kept:?}");
}
