//! AdaLoRA against PEFT: penalty, importances, every decision of a whole schedule, pruned files; and in whole runs.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::methods::adalora::{AdaLora, AdaLoraConfig};
use ft_peft::{Adaptable, Delta, InTraining, ModuleSlot, Pass, PeftConfig, adapter, attach, fold};
use ft_train::MethodHook;
use ft_train::checkpoint::read_tensors;

use crate::production::{close_loss, peft_batch, step};
use crate::support::{arrays, close, fixture};
use crate::train_support::Workshop;

fn base(device: &Device) -> Model {
    Model::load(&fixture("peft/base"), LoadDtype::F32, device).unwrap()
}

fn adapted(folder: &str, device: &Device) -> (Model, AdaLoraConfig) {
    let mut model = base(device);
    match adapter::load(&fixture("peft/adalora").join(folder), &mut model).unwrap() {
        (PeftConfig::AdaLora(config), _) => (model, config),
        (other, _) => panic!("read as {other:?}"),
    }
}

fn hook(config: &AdaLoraConfig) -> MethodHook {
    MethodHook::of(&PeftConfig::AdaLora(config.clone()))
}

/// Mean negative log-likelihood and penalty of the goldens' step, and the gradients of their sum.
fn penalized(model: &Model, hook: &mut MethodHook) -> (f64, GradientsParams) {
    let (nll, grads) = step(model, hook, &peft_batch());
    let mut modules = model.clone();
    let penalty = AdaLoraConfig::default()
        .training_hook()
        .unwrap()
        .penalty(&mut modules.target_modules());
    (nll + f64::from(penalty.unwrap().into_scalar::<f32>()), grads)
}

fn adapters(model: &mut Model) -> Vec<(String, &mut AdaLora)> {
    let modules = model.target_modules().into_iter();
    modules
        .filter_map(|module| match module.slot {
            ModuleSlot::Projection(slot) => match &mut slot.delta {
                Some(Delta::AdaLora(delta)) => Some((module.path, delta)),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// The three matrices by PEFT's names in memory.
fn params(model: &mut Model) -> Vec<(String, Param<Tensor<2>>)> {
    let all = adapters(model).into_iter();
    all.flat_map(|(path, delta)| {
        let named = [("A", &delta.a), ("B", &delta.b), ("E", &delta.e)];
        named.map(|(name, param)| (format!("base_model.model.{path}.lora_{name}.default"), param.clone()))
    })
    .collect()
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
    model.logits(hidden).without_autodiff()
}

#[test]
fn logits_loss_and_gradients_equal_peft() {
    let golden = arrays(&fixture("peft/adalora/golden.safetensors"));
    let (mut model, config) = adapted("", &Device::flex().autodiff());
    close("logits", logits(&model), &golden["logits"], 1e-5);
    let (loss, grads) = penalized(&model, &mut hook(&config));
    close_loss("penalized", loss, golden["loss"].values[0], 1e-5);
    for (name, param) in params(&mut model) {
        close(
            &name,
            param.val().without_autodiff(),
            &golden[&format!("param.{name}")],
            0.0,
        );
        let grad = grads.get::<2>(param.id).unwrap();
        close(&name, grad, &golden[&format!("grad.{name}")], 1e-4);
    }
}

#[test]
fn a_whole_schedule_decides_as_peft_does() {
    let golden = arrays(&fixture("peft/adalora/golden.safetensors"));
    let (mut model, config) = adapted("", &Device::flex().autodiff());
    assert_eq!(config.total_step, 20);
    let mut hook = hook(&config);
    let mut optim = Optim::new(&OptimConfig::default()).unwrap();
    for (i, expected) in golden["losses"].values.iter().enumerate() {
        let (loss, grads) = penalized(&model, &mut hook);
        close_loss(&format!("step {i}"), loss, *expected, 1e-4);
        hook.observe(&model, &grads);
        model = optim.step(1e-2, model, grads);
        hook.moved(&mut model, i + 1);
        for (name, param) in params(&mut model)
            .into_iter()
            .filter(|(name, _)| name.contains("lora_E"))
        {
            let trace = &golden[&format!("trace.{name}")];
            let expected = &trace.values[i * 6..(i + 1) * 6];
            let found: Vec<f32> = param.val().into_data().try_into_vec().unwrap();
            for (a, b) in found.iter().zip(expected) {
                assert_eq!(
                    *a == 0.0,
                    *b == 0.0,
                    "step {}: {name} {found:?}, expected {expected:?}",
                    i + 1
                );
                assert!((f64::from(*a) - b).abs() < 1e-4, "step {}: {name}", i + 1);
            }
        }
    }
    for (name, param) in params(&mut model) {
        close(
            &name,
            param.val().without_autodiff(),
            &golden[&format!("after.{name}")],
            1e-4,
        );
    }
    close("after", logits(&model), &golden["after_logits"], 1e-4);

    let (out, theirs) = (tempfile::tempdir().unwrap(), fixture("peft/adalora/after"));
    adapter::save(out.path(), &mut model, &PeftConfig::AdaLora(config), "tiny/llama").unwrap();
    let file = "adapter_model.safetensors";
    let (ours, expected) = (arrays(&out.path().join(file)), arrays(&theirs.join(file)));
    assert!(ours.keys().eq(expected.keys()), "{:?}", ours.keys());
    for (name, array) in &ours {
        assert_eq!(array.shape, expected[name].shape, "{name}");
        let same = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-4;
        assert!(array.values.iter().zip(&expected[name].values).all(same), "{name}");
    }
    assert_eq!(pattern(out.path()), pattern(&theirs));

    fold(&mut model).unwrap();
    close("merged", logits(&model), &golden["merged_logits"], 1e-4);
}

fn pattern(folder: &std::path::Path) -> serde_json::Value {
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["rank_pattern"].clone()
}

#[test]
fn a_pruned_file_of_peft_is_read_and_written_as_it_is() {
    let golden = arrays(&fixture("peft/adalora/golden.safetensors"));
    let (mut model, config) = adapted("after", &Device::flex());
    close("after", logits(&model), &golden["after_logits"], 1e-5);
    let out = tempfile::tempdir().unwrap();
    adapter::save(out.path(), &mut model, &PeftConfig::AdaLora(config), "tiny/llama").unwrap();
    let file = "adapter_model.safetensors";
    let (ours, theirs) = (
        arrays(&out.path().join(file)),
        arrays(&fixture("peft/adalora/after").join(file)),
    );
    assert!(ours.keys().eq(theirs.keys()));
    assert!(
        ours.iter()
            .all(|(name, array)| array.shape == theirs[name].shape && array.values == theirs[name].values)
    );
    assert_eq!(pattern(out.path()), pattern(&fixture("peft/adalora/after")));
}

#[test]
fn a_place_may_keep_nothing() {
    let (mut model, mut config) = adapted("", &Device::flex());
    for (path, delta) in adapters(&mut model) {
        if path.contains("v_proj") {
            delta.kept = Some(vec![false; 6]);
            delta.e = delta.e.clone().map(|e| e.zeros_like());
        }
    }
    let before = logits(&model);
    config.rank_pattern = None;
    let out = tempfile::tempdir().unwrap();
    adapter::save(out.path(), &mut model, &PeftConfig::AdaLora(config), "tiny/llama").unwrap();
    let tensors = arrays(&out.path().join("adapter_model.safetensors"));
    let at = "base_model.model.model.layers.0.self_attn.v_proj.lora_";
    let shape = |name: &str| tensors[&format!("{at}{name}")].shape.clone();
    assert_eq!(
        (shape("A"), shape("B"), shape("E")),
        (vec![0, 32], vec![16, 0], vec![0, 1])
    );
    let mut again = base(&Device::flex());
    adapter::load(out.path(), &mut again).unwrap();
    let moved = (logits(&again) - before).abs().max().into_scalar::<f32>();
    assert!(moved < 1e-6, "{moved}");
}

#[test]
fn equal_ranks_take_nothing_away() {
    let config = AdaLoraConfig {
        init_r: 4,
        target_r: 4,
        total_step: 4,
        ..Default::default()
    };
    let mut model = base(&Device::flex().autodiff());
    attach(&mut model, &PeftConfig::AdaLora(config.clone()), 1).unwrap();
    let mut hook = hook(&config);
    let mut optim = Optim::new(&OptimConfig::default()).unwrap();
    for step in 1..=4 {
        let (_, grads) = penalized(&model, &mut hook);
        hook.observe(&model, &grads);
        model = optim.step(1e-2, model, grads);
        hook.moved(&mut model, step);
    }
    assert!(
        adapters(&mut model)
            .iter()
            .all(|(_, delta)| delta.kept == Some(vec![true; 4]))
    );
    let mut line = serde_json::json!({});
    hook.report(&mut line);
    assert_eq!(line["rank_histogram"], serde_json::json!({"4": 14}));
}

const RUN: &[&str] = &[
    "peft.method=adalora",
    "peft.init_r=6",
    "peft.target_r=3",
    "peft.tinit=1",
    "peft.tfinal=2",
    "peft.deltaT=2",
    "train.check_gradients=true",
];

/// The workshop's run without the options of LoRA.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    let path = workshop.path("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("rank = 4\ndropout = 0.1\n", "dropout = 0.1\n")).unwrap();
    workshop
}

#[test]
fn a_stopped_run_goes_on_as_if_it_had_not_been() {
    let workshop = workshop();
    workshop.fit("alone", RUN).unwrap();
    // In the middle of the schedule, where the means matter, and after the last decision.
    workshop.fit_until("cut", RUN, 3);
    workshop.resume_until("cut", RUN, 9);
    workshop.resume("cut", RUN).unwrap();
    assert_eq!(workshop.metrics("cut").len(), workshop.metrics("alone").len());
    for (cut, alone) in workshop.metrics("cut").iter().zip(workshop.metrics("alone")) {
        for key in ["step", "loss", "eval_loss", "orth_loss", "rank_total", "rank_histogram"] {
            assert_eq!(cut[key], alone[key], "{key}");
        }
    }
    assert_eq!(workshop.result("cut", 12), workshop.result("alone", 12));
    for out in ["cut", "alone"] {
        let text = pattern(&workshop.path(out).join("final"));
        assert_eq!(text, pattern(&workshop.path("alone/final")));
    }
    let state =
        |out: &str| std::fs::read(workshop.path(out).join("checkpoints/step-9/training_hook.safetensors")).unwrap();
    assert_eq!(state("cut"), state("alone"));
}

#[test]
fn the_budget_reaches_its_target_and_the_reported_loss_has_no_penalty() {
    let workshop = workshop();
    workshop.fit("out", RUN).unwrap();
    let metrics = workshop.metrics("out");
    let last = metrics.iter().rfind(|line| line["loss"].is_number()).unwrap();
    assert_eq!(last["rank_total"], 3 * 14);
    let first = &metrics.iter().find(|line| line["loss"].is_number()).unwrap();
    // E is 0 at the start: the first loss is the base's, and the penalty is far from 0.
    let penalty = first["orth_loss"].as_f64().unwrap();
    assert!(penalty > 0.1, "{penalty}");
    let plain = [RUN, &["peft.orth_reg_weight=0"]].concat();
    workshop.fit("plain", &plain).unwrap();
    let loss = |out: &str| {
        workshop
            .metrics(out)
            .iter()
            .find_map(|line| line["loss"].as_f64())
            .unwrap()
    };
    assert_eq!(loss("out"), loss("plain"));
    assert!(workshop.metrics("plain").iter().all(|line| line["orth_loss"].is_null()));
}

#[test]
fn accumulation_takes_the_same_steps() {
    let workshop = workshop();
    let sets = |size: &'static str, accumulation: &'static str| [RUN, &["peft.dropout=0", size, accumulation]].concat();
    workshop
        .fit("one", &sets("train.batch_size=4", "train.accumulation=1"))
        .unwrap();
    workshop
        .fit("four", &sets("train.batch_size=1", "train.accumulation=4"))
        .unwrap();
    for (one, four) in workshop.metrics("one").iter().zip(workshop.metrics("four")) {
        for key in ["loss", "orth_loss"] {
            if let (Some(a), Some(b)) = (one[key].as_f64(), four[key].as_f64()) {
                assert!((a - b).abs() < 2e-4, "step {}: {key} {a} and {b}", one["step"]);
            }
        }
    }
}

#[test]
fn the_best_weights_come_back_with_their_ranks() {
    let workshop = workshop();
    // Held-out answers that the training samples argue against: the better those are learned, the worse it gets here.
    let line = "{\"prompt\": \"turn a b c into =\", \"completion\": \"; ; ;\"}\n";
    std::fs::write(workshop.path("valid.jsonl"), line.repeat(3)).unwrap();
    let sets = [
        "train.load_best=true",
        "train.eval_every=1",
        "optim.lr=0.2",
        "peft.tfinal=1",
    ];
    let outcome = workshop.fit("out", &[RUN, &sets].concat()).unwrap();
    let best = outcome.best.unwrap();
    assert!(best.step < 12, "the best step is {}", best.step);
    let (final_loss, seen) = (outcome.after.unwrap().loss, best.loss);
    assert!((final_loss - seen).abs() < 1e-9);
    let at = workshop.path("out").join(format!("checkpoints/step-{}", best.step));
    assert_eq!(pattern(&at), pattern(&workshop.path("out/final")));
    let file = "adapter_model.safetensors";
    let bytes = |folder: std::path::PathBuf| std::fs::read(folder.join(file)).unwrap();
    assert_eq!(bytes(at.clone()), bytes(workshop.path("out/final")));
    assert!(!read_tensors(&at.join("training_hook.safetensors")).unwrap().is_empty());
}

#[test]
fn a_schedule_without_room_is_refused() {
    let workshop = workshop();
    let sets = [RUN, &["peft.tfinal=11"]].concat();
    let error = workshop.plan("out", &sets).unwrap_err().to_string();
    assert!(
        error.contains("peft.tinit: 1 steps at the start and 11 at the end"),
        "{error}"
    );
    let error = workshop
        .plan("out", &[RUN, &["peft.target_r=7"]].concat())
        .unwrap_err()
        .to_string();
    assert!(error.contains("peft.target_r: 7 is above init_r (6)"), "{error}");
}

#[test]
fn a_spent_budget_trains_on_as_it_is() {
    let workshop = workshop();
    workshop.fit("first", RUN).unwrap();
    let path = workshop.path("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("dropout = 0.1\n", "from = \"first/final\"\n")).unwrap();
    let second = workshop.fit("second", &[]).unwrap();
    assert_eq!(
        pattern(&workshop.path("first/final")),
        pattern(&workshop.path("second/final"))
    );
    let (before, after) = (second.before.unwrap().loss, second.after.unwrap().loss);
    assert!(after < before, "{before} to {after}");
}
