//! Every optimizer in a whole run: resumed to the byte, and its memory foreseen.

use std::fs;

use ft_train::Ending;
use ft_train::checkpoint::read_tensors;

use crate::train_support::Workshop;

const ALL: [&[&str]; 9] = [
    &["optim.kind=adamw_8bit", "optim.lr=1e-2"],
    &["optim.kind=paged_adamw_32bit", "optim.lr=1e-2"],
    &["optim.kind=adafactor", "optim.lr=1e-2"],
    &["optim.kind=adafactor", "optim.lr=1e-2", "optim.beta1=0.9"],
    &["optim.kind=adafactor", "optim.lr=1e-3", "optim.relative_step=true"],
    &["optim.kind=lion", "optim.lr=3e-3"],
    &["optim.kind=sgd", "optim.lr=1e-1"],
    &["optim.kind=sgd", "optim.lr=1e-1", "optim.momentum=0.9"],
    &["optim.kind=muon", "optim.lr=1e-2"],
];

fn full(workshop: &Workshop) {
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("rank = 4\ndropout = 0.1\n", "method = \"full\"\n")).unwrap();
}

/// Bytes of the optimizer's tensors in a checkpoint.
fn saved(workshop: &Workshop, out: &str, step: usize) -> u64 {
    let file = format!("checkpoints/step-{step}/optimizer.safetensors");
    let tensors = read_tensors(&workshop.path(out).join(file)).unwrap();
    tensors.iter().map(|(_, data)| data.as_bytes().len() as u64).sum()
}

fn cut_equals_left_alone(workshop: &Workshop) {
    for (index, optim) in ALL.iter().enumerate() {
        let sets = [*optim, &["train.steps=6", "eval.samples=0"]].concat();
        let (alone, cut) = (format!("alone-{index}"), format!("cut-{index}"));
        let planned = workshop.plan(&alone, &sets).unwrap().bytes.optimizer;
        let outcome = workshop.fit(&alone, &sets).unwrap();
        let (before, after) = (outcome.before.unwrap().loss, outcome.after.unwrap().loss);
        assert!(after < before, "{optim:?}: {before} -> {after}");
        assert_eq!(
            planned,
            saved(workshop, &alone, 6),
            "{optim:?}: bytes of the plan and of the state"
        );

        let stopped = workshop.fit_until(&cut, &sets, 3);
        assert_eq!((stopped.ending, stopped.steps), (Ending::Interrupted, 3));
        workshop.resume(&cut, &sets).unwrap();
        assert_eq!(workshop.curve(&cut), workshop.curve(&alone), "{optim:?}");
        assert_eq!(workshop.result(&cut, 6), workshop.result(&alone, 6), "{optim:?}");
    }
}

#[test]
fn lora() {
    cut_equals_left_alone(&Workshop::new());
}

#[test]
fn full_fine_tuning() {
    let workshop = Workshop::new();
    full(&workshop);
    cut_equals_left_alone(&workshop);
}

#[test]
fn a_state_of_another_kind_is_refused_and_paging_on_the_cpu_is_told() {
    let workshop = Workshop::new();
    workshop.fit_until("run", &[], 3);
    let error = workshop.resume("run", &["optim.kind=lion"]).unwrap_err().to_string();
    assert!(error.contains("optim.kind: \"adamw\" -> \"lion\""), "{error}");

    let plan = workshop.plan("paged", &["optim.kind=paged_adamw_32bit"]).unwrap();
    let warned = plan.warnings.iter().any(|w| w.contains("pages nothing on the CPU"));
    assert!(warned, "{:?}", plan.warnings);

    let error = match workshop.plan("keys", &["optim.kind=muon", "optim.ns_steps=0", "optim.clip=-1"]) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.contains("`optim.ns_steps` is 0") && error.contains("`optim.clip` is -1"),
        "{error}"
    );
}
