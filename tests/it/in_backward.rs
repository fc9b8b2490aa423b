//! An optimizer step inside the backward pass is the step after it.

use std::fs;
use std::ops::ControlFlow;

use burn::tensor::Device;
use ft_data::{Batch, Sample};
use ft_model::Model;
use ft_optim::{Optim, OptimConfig, trainable_tensors};
use ft_peft::{PeftConfig, attach};
use ft_train::checkpoint::{read_tensors, write_tensors};
use ft_train::config::Checkpointing;
use ft_train::{ActivationPolicy, Complete, Error, MethodHook, Piece, StepBatch};

use crate::methods_laws::{BASES, METHODS, base, config, disturb};
use crate::production::{step_batch, train_model};
use crate::train_support::Workshop;

const STEPS: u64 = 3;
const LR: f64 = 1e-2;

fn every(blocks: usize) -> ActivationPolicy {
    ActivationPolicy {
        checkpointing: Checkpointing::Every(blocks),
        offload: false,
    }
}

fn batch(step: u64) -> StepBatch {
    let sample = |salt: usize, len: usize| {
        let ids = (0..len).map(|i| ((i * 7 + salt * 13) % 90 + 3) as u32).collect();
        Sample::new(ids, (0..len).map(|i| i > 2).collect())
    };
    let rows = [sample(step as usize, 9), sample(step as usize + 5, 6)];
    step_batch(step as usize, [Batch::new(&[&rows[0], &rows[1]], 0, 1)])
}

fn after(mut model: Model, optim: &OptimConfig, activations: ActivationPolicy) -> (Model, Vec<f64>) {
    let mut optim = Optim::new(optim).unwrap();
    let step = |step| {
        let (train, mut hook) = (
            train_model(model.clone(), activations),
            MethodHook::of(&PeftConfig::default()),
        );
        let output = train
            .step_gradients(&mut hook, &batch(step), None, &|| true)
            .unwrap()
            .unwrap();
        model = optim.step(LR, train.model, output.grads);
        output.item.grad_norm.unwrap().value()
    };
    let norms = (0..STEPS).map(step).collect();
    (model, norms)
}

fn inside(model: Model, optim: &OptimConfig, activations: ActivationPolicy) -> (Model, Vec<f64>) {
    let (mut optim, mut norms, mut model) = (Optim::new(optim).unwrap(), Vec::new(), model);
    for step in 0..STEPS {
        let batch = batch(step);
        let mut complete = Complete::new(1.0 / batch.target_tokens as f64);
        let train = train_model(model, activations);
        let each = |model, piece: Piece<'_>, _: &_| {
            let (grads, _) = complete.with(&model, piece.grads, piece.before);
            ControlFlow::Continue(optim.step(LR, model, grads))
        };
        let (train, _) = train.in_pieces(&batch, each).unwrap();
        model = train.model;
        norms.push(complete.norm().value());
    }
    (model, norms)
}

/// Weights to the bit, norms to the rounding of their sums.
fn same(what: &str, model: &Model, optim: &str) {
    let optim: OptimConfig = serde_json::from_str(optim).unwrap();
    for activations in [every(1), every(2)] {
        let ((one, norms), (other, others)) = (
            after(model.clone(), &optim, activations),
            inside(model.clone(), &optim, activations),
        );
        let (one, other, start) = (
            trainable_tensors(&one),
            trainable_tensors(&other),
            trainable_tensors(model),
        );
        for ((x, y), before) in one.iter().zip(&other).zip(&start) {
            assert!(x == y, "{what}, {activations:?}: {}", x.0);
            assert!(x.1.iter::<f32>().all(f32::is_finite), "{what}: {}", x.0);
            let still = x.1 == before.1;
            assert!(!still || before.0.contains("bias"), "{what}: {} did not move", x.0);
        }
        for (x, y) in norms.iter().zip(&others) {
            assert!((x - y).abs() <= 1e-6 * x, "{what}: norms {x} and {y}");
        }
    }
}

#[test]
fn every_optimizer_moves_every_weight_as_after_it() {
    let device = Device::flex().autodiff();
    // A head of its own, and one tied to the embeddings, whose gradient comes in two parts.
    for name in ["families/llama", "families/qwen3", "families/gpt2"] {
        let mut model = base(name, &device);
        attach(&mut model, &config(r#"{"method": "full"}"#), 0).unwrap();
        for kind in ["adamw", "adamw_8bit", "adafactor", "lion", "sgd", "muon"] {
            let optim = format!(r#"{{"kind": "{kind}"}}"#);
            same(&format!("{kind} on {name}"), &model, &optim);
        }
    }
}

#[test]
fn every_method_moves_as_after_it() {
    let device = Device::flex().autodiff();
    for (options, _) in METHODS {
        for name in BASES {
            if options.contains("bitfit") && name == "families/llama" {
                continue;
            }
            let mut model = base(name, &device);
            attach(&mut model, &config(options), 3).unwrap();
            disturb(&mut model);
            same(&format!("{options} on {name}"), &model, r#"{"kind": "sgd"}"#);
        }
    }
}

const AFTER: &[&str] = &[
    "peft.method=full",
    "optim.clip=0",
    "train.accumulation=1",
    "train.checkpointing=1",
    "train.steps=6",
    "eval.samples=0",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [AFTER, &["train.optimizer_in_backward=true"], more].concat()
}

#[test]
fn a_run_is_the_same_and_resumes_to_the_byte() {
    let workshop = Workshop::new();
    workshop.fit("after", AFTER).unwrap();
    workshop.fit("inside", &with(&[])).unwrap();
    assert_eq!(workshop.curve("inside"), workshop.curve("after"));
    assert_eq!(workshop.result("inside", 6), workshop.result("after", 6));
    workshop.fit_until("cut", &with(&[]), 3);
    workshop.resume("cut", &with(&[])).unwrap();
    assert_eq!(workshop.curve("cut"), workshop.curve("after"));
    assert_eq!(workshop.result("cut", 6), workshop.result("after", 6));
    // A run may change over on the way.
    workshop.fit_until("over", AFTER, 3);
    workshop.resume("over", &with(&[])).unwrap();
    assert_eq!(workshop.result("over", 6), workshop.result("after", 6));
}

#[test]
fn what_needs_all_gradients_at_once_is_refused_together() {
    let workshop = Workshop::new();
    let refused = |sets: &[&str]| workshop.plan("out", &with(sets)).err().unwrap().to_string();
    let text = refused(&[
        "optim.clip=1",
        "train.accumulation=2",
        "train.checkpointing=off",
        "model.compute=f16",
    ]);
    for part in [
        "optim.clip = 0",
        "train.accumulation = 1",
        "train.checkpointing = 1",
        "model.compute",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(refused(&["train.batch_size=auto"]).contains("to a number"));
    let text = refused(&["peft.method=adalora", "peft.init_r=4", "peft.target_r=2"]);
    assert!(text.contains("adalora") && text.contains("all gradients"), "{text}");
}

/// The base with some of its tensors filled with a value, or multiplied by it.
fn change(workshop: &Workshop, change: impl Fn(&str, f32) -> f32) {
    let path = workshop.path("base/model.safetensors");
    let mut tensors = read_tensors(&path).unwrap();
    for (name, data) in &mut tensors {
        let values = data.iter::<f32>().map(|x| change(name, x)).collect::<Vec<_>>();
        *data = burn::tensor::TensorData::new(values, data.shape().to_vec());
    }
    write_tensors(&path, &tensors).unwrap();
}

#[test]
fn a_bad_loss_is_skipped_and_a_gradient_that_turns_bad_on_the_way_stops() {
    let workshop = Workshop::new();
    let sets = with(&["train.check_gradients=false"]);
    change(
        &workshop,
        |name, x| if name == "model.norm.weight" { f32::NAN } else { x },
    );
    let error = workshop
        .fit("loss", &[&sets[..], &["train.max_bad_steps=2"]].concat())
        .unwrap_err();
    assert!(matches!(error, Error::NotFinite { count: 2, .. }), "{error}");
    assert_eq!(fs::read_dir(workshop.path("loss/bad_steps")).unwrap().count(), 2);

    // The first block adds nothing, but has an input so large that the gradient of its weights overflows.
    let workshop = Workshop::new();
    change(&workshop, |name, x| match name.strip_prefix("model.layers.0.") {
        Some("input_layernorm.weight") => 1e37,
        Some("self_attn.q_proj.weight" | "self_attn.k_proj.weight" | "self_attn.v_proj.weight") => 0.0,
        Some("self_attn.o_proj.weight") => 1e6 * x,
        _ => x,
    });
    let error = workshop.fit("late", &sets).unwrap_err();
    assert!(matches!(error, Error::HalfDone { step: 1, .. }), "{error}");
    assert!(error.to_string().contains("--resume"), "{error}");
}

#[test]
fn the_plan_counts_the_gradients_of_one_segment() {
    let workshop = Workshop::new();
    let gradients = |sets: &[&str]| {
        let sgd = [sets, &["optim.kind=sgd", "optim.lr=1e-2"]].concat();
        workshop.plan("out", &sgd).unwrap().bytes.gradients
    };
    let (after, inside) = (gradients(AFTER), gradients(&with(&[])));
    assert!(0 < inside && 2 * inside < after, "{inside} and {after}");
}
