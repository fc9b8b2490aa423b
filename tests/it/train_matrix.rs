//! Two laws over whole runs. A run that is stopped and resumed ends as one left alone, whatever trains it and however its
//! numbers are held; and however a step is cut into micro-batches, it is the same step.

use std::collections::BTreeMap;
use std::fs;

use ft_optim::OptimConfig;
use ft_peft::PeftConfig;
use ft_train::Ending;
use ft_train::checkpoint::read_tensors;

use crate::support::fixture;
use crate::train_support::Workshop;

const OPTIMIZERS: [&str; 8] = [
    "adamw",
    "adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "lion",
    "sgd",
    "muon",
    // With its own moments, which SGD keeps only where it is told to.
    "sgd optim.momentum=0.9",
];

/// One of each way to train: matrices beside projections, with a schedule of their own, in place, in blocks, in front.
const METHODS: [&str; 5] = ["lora", "adalora", "full", "houlsby", "prompt_tuning"];

fn resumes_exactly(precision: &[&str], methods: &[&str]) {
    let workshop = Workshop::new();
    let short =
        "train.steps=4 train.eval_every=4 train.save_every=2 eval.samples=0 eval.at_start=false train.tensorboard=''";
    for (index, optimizer) in OPTIMIZERS.iter().enumerate() {
        for method in methods {
            let rate = if optimizer.starts_with("sgd") { 0.05 } else { 2e-3 };
            let chosen = format!("peft.method={method} optim.kind={optimizer} optim.lr={rate}");
            let sets: Vec<&str> = chosen
                .split(' ')
                .chain(short.split(' '))
                .chain(precision.iter().copied())
                .collect();
            let (alone, cut) = (format!("{method}-{index}"), format!("{method}-{index}-cut"));
            workshop.fit(&alone, &sets).unwrap_or_else(|e| panic!("{sets:?}: {e}"));
            let stopped = workshop.fit_until(&cut, &sets, 2);
            assert_eq!((stopped.ending, stopped.steps), (Ending::Interrupted, 2), "{sets:?}");
            workshop.resume(&cut, &sets).unwrap();
            assert_eq!(workshop.result(&cut, 4), workshop.result(&alone, 4), "{sets:?}");
            assert_eq!(workshop.curve(&cut), workshop.curve(&alone), "{sets:?}");
        }
    }
}

#[test]
fn every_kind_of_optimizer_is_in_the_matrix() {
    let listed = |kind: &&&str| OPTIMIZERS.iter().any(|o| o.split(' ').next() == Some(**kind));
    let missing: Vec<_> = OptimConfig::KINDS.iter().filter(|kind| !listed(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn in_f32() {
    resumes_exactly(&[], &METHODS);
}

#[test]
fn in_bf16() {
    resumes_exactly(&["model.dtype=bf16", "model.compute=bf16"], &METHODS);
}

#[test]
fn in_f16() {
    resumes_exactly(&["model.dtype=f16", "model.compute=f16"], &METHODS);
}

#[test]
fn over_nf4() {
    let methods: Vec<&str> = METHODS.into_iter().filter(|method| *method != "full").collect();
    resumes_exactly(&["model.quant.kind=nf4", "model.quant.double=true"], &methods);
}

fn weights(workshop: &Workshop, out: &str, step: usize) -> BTreeMap<String, Vec<f32>> {
    let file = format!("checkpoints/step-{step}/trainable.safetensors");
    let tensors = read_tensors(&workshop.path(out).join(file)).unwrap().into_iter();
    tensors
        .map(|(name, data)| (name, data.iter::<f32>().collect()))
        .collect()
}

fn apart(one: &BTreeMap<String, Vec<f32>>, other: &BTreeMap<String, Vec<f32>>) -> f32 {
    assert!(one.keys().eq(other.keys()));
    let pairs = one.values().flatten().zip(other.values().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Plain gradient descent, so that what differs is the gradient: AdamW would make a whole step of a rounding error.
#[test]
fn accumulation_takes_the_steps_of_the_larger_batch_for_every_method() {
    let workshop = Workshop::new();
    let path = workshop.path("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    // Masks are drawn for each forward pass.
    fs::write(&path, text.replace("dropout = 0.1", "dropout = 0")).unwrap();
    // A base with biases, for BitFit.
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(fixture("families/qwen2").join(name), workshop.path("base").join(name)).unwrap();
    }
    let common = "optim.kind=sgd optim.lr=0.1 schedule.warmup=0 train.steps=4 train.eval_every=4 train.save_every=1 eval.samples=0 \
                  eval.at_start=false train.tensorboard='' train.check_gradients=false";
    let mut off = Vec::new();
    for method in PeftConfig::NAMES {
        let options = match *method {
            "trainable_tokens" => "peft.token_indices=[5,6,7]",
            "oft" => "peft.block_size=8",
            "shira" | "miss" | "gralora" => "peft.rank=8",
            _ => "",
        };
        let run = |out: &str, cut: &str| {
            let text = format!("peft.method={method} {options} {common} {cut}");
            let sets: Vec<&str> = text.split_whitespace().collect();
            let out = format!("{method}-{out}");
            workshop.fit(&out, &sets).unwrap_or_else(|e| panic!("{method}: {e}"));
            [1, 4].map(|step| weights(&workshop, &out, step))
        };
        let [first, whole] = run("whole", "train.batch_size=6 train.accumulation=1");
        let [_, parts] = run("parts", "train.batch_size=2 train.accumulation=3");
        let [_, again] = run("again", "train.batch_size=1 train.accumulation=6 train.checkpointing=1");
        let found = [apart(&first, &whole), apart(&whole, &parts), apart(&whole, &again)];
        if found[0] < 1e-4 || found[1].max(found[2]) > 1e-5 {
            off.push(format!("{method}: {found:?}"));
        }
    }
    assert!(
        off.is_empty(),
        "moved by, in parts off by, computed again off by: {off:#?}"
    );
}
