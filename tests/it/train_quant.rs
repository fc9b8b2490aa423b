//! Runs over a base that is quantized while it is read: every part of a run holds it the same way.

use std::fs;

use ft_model::{LoadDtype, Model};
use ft_peft::{Adaptable, ModuleSlot, adapter};
use ft_quant::{Kind, Scheme};
use ft_train::{Outcome, read_metrics};

use crate::support::fixture;
use crate::train_support::Workshop;

const NF4: [&str; 2] = ["model.quant.kind=nf4", "model.quant.double=true"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&NF4, more].concat()
}

fn held_out(outcome: &Outcome) -> f64 {
    outcome.after.as_ref().unwrap().loss
}

#[test]
fn a_stopped_run_over_codes_ends_with_the_same_bytes() {
    let workshop = Workshop::new();
    for sets in [
        &NF4[..],
        &["model.quant.kind=int8"],
        &["model.quant.kind=fp4", "model.quant.block_size=32"],
    ] {
        let name = |part: &str| format!("{part}-{}", &sets[0][18..]);
        let (whole, parts) = (name("whole"), name("parts"));
        let sets = [sets, &["train.steps=6", "train.save_every=3"]].concat();
        workshop.fit(&whole, &sets).unwrap();
        workshop.fit_until(&parts, &sets, 3);
        workshop.resume(&parts, &sets).unwrap();
        assert_eq!(workshop.result(&whole, 6), workshop.result(&parts, 6), "{sets:?}");
        assert_eq!(workshop.curve(&whole), workshop.curve(&parts), "{sets:?}");
    }
}

#[test]
fn a_resume_with_another_storage_is_refused() {
    let workshop = Workshop::new();
    workshop.fit_until("out", &with(&[]), 3);
    let refused = workshop
        .resume("out", &["model.quant.kind=fp4"])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("model.quant.kind: \"nf4\" -> \"fp4\""), "{refused}");
    assert!(
        workshop
            .resume("out", &[])
            .unwrap_err()
            .to_string()
            .contains("model.quant")
    );
}

#[test]
fn the_best_model_is_restored_over_the_codes() {
    let workshop = Workshop::new();
    // A rate that spoils the model after a few steps: the best evaluation is not the last.
    let sets = with(&[
        "train.load_best=true",
        "optim.lr=0.1",
        "schedule.kind=constant",
        "train.eval_every=2",
    ]);
    let outcome = workshop.fit("out", &sets).unwrap();
    let best = read_metrics(&workshop.path("out/metrics.jsonl"))
        .iter()
        .filter(|line| line["step"].as_u64() > Some(0))
        .filter_map(|line| line["eval_loss"].as_f64())
        .fold(f64::INFINITY, f64::min);
    assert_eq!(held_out(&outcome), best);

    // What was written means the same over a base quantized again, and something else over the plain one.
    let plan = workshop.plan("again", &sets).unwrap();
    let loss = |scheme| {
        let base = workshop.path("base");
        let mut model = Model::load_quantized(&base, LoadDtype::F32, scheme, plan.device()).unwrap();
        adapter::load(&workshop.path("out/final"), &mut model).unwrap();
        let batch = ft_data::Batch::new(&plan.valid().iter().collect::<Vec<_>>(), 0, 1);
        let sum = ft_eval::evaluate(&model, [batch]).unwrap();
        sum.nll_sum / sum.tokens as f64
    };
    let scheme = Scheme::new(Kind::Nf4).doubled();
    assert!((loss(Some(scheme)) - best).abs() < 1e-5 * best);
    let plain = loss(None);
    assert!(
        (plain - best).abs() > 1e-4 * best,
        "{plain} over the plain base, {best} over codes"
    );
}

#[test]
fn accumulation_over_codes_weighs_tokens_as_one_batch_does() {
    let workshop = Workshop::new();
    let sets = |batch: &'static str, accumulation: &'static str| {
        with(&[
            batch,
            accumulation,
            "peft.dropout=0",
            "train.steps=3",
            "data.shuffle=false",
        ])
    };
    workshop
        .fit("parts", &sets("train.batch_size=1", "train.accumulation=4"))
        .unwrap();
    workshop
        .fit("whole", &sets("train.batch_size=4", "train.accumulation=1"))
        .unwrap();
    for (a, b) in workshop.curve("parts").iter().zip(&workshop.curve("whole")) {
        let (a, b) = (a.1.or(a.2).unwrap(), b.1.or(b.2).unwrap());
        assert!((a - b).abs() < 1e-4 * b, "{a} and {b}");
    }
}

#[test]
fn the_plan_counts_the_codes_that_the_run_then_holds() {
    let workshop = Workshop::new();
    let weights = |sets: &[&str]| workshop.plan("out", sets).unwrap().bytes.weights as i64;
    let plain = weights(&[]);
    for (sets, scheme) in [
        (&NF4[..], Scheme::new(Kind::Nf4).doubled()),
        (&["model.quant.kind=fp4"], Scheme::new(Kind::Fp4)),
        (&["model.quant.kind=int8"], Scheme::new(Kind::Int8)),
    ] {
        let base = workshop.path("base");
        let device = burn::tensor::Device::flex();
        let mut model = Model::load_quantized(&base, LoadDtype::F32, Some(scheme), &device).unwrap();
        let (mut numbers, mut bytes, mut count) = (0, 0, 0);
        for module in model.target_modules() {
            let ModuleSlot::Projection(slot) = &module.slot else {
                continue;
            };
            let Some(packed) = slot.weight.as_packed() else {
                continue;
            };
            let [rows, cols] = packed.dims();
            (numbers, bytes, count) = (numbers + rows * cols, bytes + packed.bytes(), count + 1);
        }
        let planned = weights(sets) - (plain - 4 * numbers as i64);
        // Codes come in words of four bytes on the device.
        let difference = (planned - bytes as i64).abs();
        assert!(
            count == 14 && difference <= 8 * count,
            "{scheme}: {planned} planned, {bytes} held"
        );
    }
}

#[test]
fn storage_that_cannot_be_is_refused_by_name() {
    let workshop = Workshop::new();
    let refused = |sets: &[&str]| workshop.plan("out", sets).unwrap_err().to_string();
    for block in ["48", "16", "8192", "0"] {
        let set = format!("model.quant.block_size={block}");
        let message = refused(&with(&[&set]));
        assert!(
            message.contains(&format!("model.quant.block_size: block size {block}: must be")),
            "{message}"
        );
    }
    let message = refused(&["model.quant.kind=int8", "model.quant.double=true"]);
    assert!(
        message.contains("model.quant.double: double quantization is for nf4 and fp4"),
        "{message}"
    );
    let text = fs::read_to_string(workshop.path("run.toml")).unwrap();
    let full = text.replace("rank = 4\ndropout = 0.1", "method = \"full\"");
    fs::write(workshop.path("run.toml"), full).unwrap();
    let message = refused(&with(&[]));
    assert!(
        message.contains("codes cannot be trained") && message.contains("14 of the matrices"),
        "{message}"
    );
    let message = refused(&with(&["model.init=true"]));
    assert!(message.contains("model.quant: random weights"), "{message}");
    let sets: Vec<String> = ["model.quant.kind=nf5".into()].into();
    let message = ft_train::RunConfig::load(&workshop.path("run.toml"), &sets)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("must be one of \"nf4\", \"fp4\", \"int8\""),
        "{message}"
    );
}

#[test]
fn a_base_in_codes_is_taken_as_it_is_and_in_no_other_codes() {
    let workshop = Workshop::new();
    let (base, packed) = (workshop.path("base"), workshop.path("packed"));
    let device = burn::tensor::Device::flex();
    let scheme = Scheme::new(Kind::Nf4).doubled();
    let model = Model::load_quantized(&base, LoadDtype::F32, Some(scheme), &device).unwrap();
    model.save(&packed, LoadDtype::Auto).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(base.join(name), packed.join(name)).unwrap();
    }
    let path = format!("model.path={}", packed.display());
    let steps = "train.steps=3";
    let plain = workshop.fit("stored", &[&path, steps]).unwrap();
    let named = workshop.fit("named", &with(&[&path, steps])).unwrap();
    let on_load = workshop.fit("on-load", &with(&[steps])).unwrap();
    assert_eq!(held_out(&plain), held_out(&named));
    assert_eq!(held_out(&plain), held_out(&on_load));
    let message = workshop
        .plan("other", &[&path, "model.quant.kind=fp4"])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("quantized already, as nf4 with double quantization, blocks of 64"),
        "{message}"
    );
}

/// Experts in one tensor, one by one and in MXFP4, whose gate and up are one matrix in memory; as they are stored, and in codes.
#[test]
fn the_plan_counts_experts_as_they_are_held() {
    for family in ["gpt_oss", "gpt_oss_mxfp4", "mixtral", "qwen3_moe"] {
        let workshop = Workshop::new();
        let base = workshop.path("base");
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixture("families").join(family).join(file), base.join(file)).unwrap();
        }
        let nf4 = (Some("model.quant.kind=nf4"), Some(Scheme::new(Kind::Nf4)));
        for ((quant, scheme), dtype) in [
            ((None, None), LoadDtype::F32),
            ((None, None), LoadDtype::Bf16),
            (nf4, LoadDtype::F32),
        ] {
            let sets = [
                match dtype {
                    LoadDtype::Bf16 => "model.dtype=bf16",
                    _ => "model.dtype=auto",
                },
                "peft.dropout=0.0",
                "peft.targets=[\"q_proj\"]",
                "peft.target_parameters=[\"mlp.experts.gate_up_proj\"]",
            ];
            let plan = workshop
                .plan("out", &sets.into_iter().chain(quant).collect::<Vec<_>>())
                .unwrap();
            let device = burn::tensor::Device::flex();
            let mut model = Model::load_configured(plan.model.clone(), &base, dtype, scheme, None, &device).unwrap();
            let mut held = 0;
            for mut module in model.target_modules() {
                let packed = match &module.slot {
                    ModuleSlot::Projection(slot) => slot.weight.as_packed().map(|packed| packed.bytes()),
                    _ => None,
                };
                for (leaf, tensor) in module.tensors() {
                    let bytes = tensor.into_data().as_bytes().len();
                    held += packed.filter(|_| leaf == "weight").unwrap_or(bytes);
                }
            }
            let planned = plan.bytes.weights as i64;
            let apart = (planned - held as i64).abs();
            assert!(apart <= 8 * 60, "{family} {quant:?}: {planned} planned, {held} held");
        }
    }
}
