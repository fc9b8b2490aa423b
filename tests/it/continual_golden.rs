//! Strategies against float64: the Fisher information, gradients, three optimizer steps. And what no projected step may do.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_data::Sample;
use ft_model::{LoadDtype, Model};
use ft_optim::{Optim, OptimConfig, named_parameters};
use ft_peft::{Adaptable, Delta, ModuleSlot, PeftConfig, adapter};
use ft_train::continual::{Setting, StrategyConfig};
use ft_train::tasks::{Course, Mixture};
use ft_train::{ActivationPolicy, Batches, MethodHook, Padding, StepBatch, TrainModel};
use serde_json::{Value, json};

use crate::production::{close_loss, in_gradients, train_model};
use crate::support::{Array, arrays, close, fixture};

fn golden() -> Value {
    let text = std::fs::read_to_string(fixture("continual/cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Samples of the three tasks, task by task.
fn tasks(golden: &Value) -> Vec<Vec<Sample>> {
    let ids = |value: &Value| -> Vec<u32> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect()
    };
    let sample = |pair: &Value| {
        let (prompt, answer) = (ids(&pair[0]), ids(&pair[1]));
        Sample::answered([prompt.clone(), answer].concat(), prompt.len())
    };
    let task = |task: &Value| task.as_array().unwrap().iter().map(sample).collect();
    golden["tasks"].as_array().unwrap().iter().map(task).collect()
}

/// The third task in micro-batches of `size`, after one step for each of the others.
fn batches(tasks: &[Vec<Sample>], size: usize) -> Arc<Batches> {
    let mut start = 0;
    let phases: Vec<(Mixture, usize)> = tasks
        .iter()
        .map(|task| {
            start += task.len();
            (Mixture::whole(start - task.len()..start), 1)
        })
        .collect();
    let pad = Padding { id: 0, multiple: 1 };
    let cut = [size, 5usize.div_ceil(size)];
    Arc::new(Batches::new(tasks.concat(), cut, true, false, 3, pad).along(Course::phases(phases)))
}

/// The hook of the strategy at the end of the second task.
fn hook(options: &Value, batches: &Arc<Batches>, train: &TrainModel) -> MethodHook {
    let strategy: StrategyConfig = serde_json::from_value(options.clone()).unwrap();
    assert_eq!(strategy.kind().check(), Vec::<String>::new());
    let setting = Setting {
        batches: batches.clone(),
        seed: 5,
    };
    let mut hook = MethodHook::of(&PeftConfig::default()).with(Some(strategy.kind().build(setting)));
    for task in 0..2 {
        assert!(hook.end_task(train, task, &|| true).unwrap());
    }
    hook
}

/// What the third task is fed at this step, with what the strategy adds.
fn fed(hook: &mut MethodHook, batches: &Batches, step: usize) -> StepBatch {
    let own: Vec<usize> = (5..10).collect();
    let beside = hook.mix(step, own.len());
    batches.step_batch(&[own, beside].concat(), step)
}

fn trained() -> TrainModel {
    let mut model = Model::load(&fixture("peft/base"), LoadDtype::F32, &Device::flex().autodiff()).unwrap();
    adapter::load(&fixture("peft/lora_all_rslora"), &mut model).unwrap();
    train_model(model, ActivationPolicy::default())
}

/// The model at the end of the second task: for O-LoRA with a second adapter beside the first, which is a constant now.
fn started(case: &str, golden: &BTreeMap<String, Array>) -> TrainModel {
    let mut train = trained();
    if case != "olora" {
        return train;
    }
    let config = adapter::read_config(&fixture("peft/lora_all_rslora")).unwrap();
    ft_peft::stack(&mut train.model, &config, 1).unwrap();
    let device = train.model.device();
    for module in train.model.target_modules() {
        let ModuleSlot::Projection(slot) = module.slot else {
            continue;
        };
        let Some(Delta::Lora(lora)) = &mut slot.delta else {
            continue;
        };
        assert!(lora.earlier.is_some());
        for (name, param) in [("lora_A", &mut lora.a), ("lora_B", &mut lora.b)] {
            let key = format!("start.base_model.model.{}.{name}.second.weight", module.path);
            let values: Vec<f32> = golden[&key].values.iter().map(|x| *x as f32).collect();
            let data = TensorData::new(values, param.dims());
            *param = Param::initialized(param.id, Tensor::from_data(data, &device)).set_require_grad(true);
        }
    }
    train
}

/// What is written is one LoRA of both ranks, which says the same.
fn one_lora(model: &Model, golden: &BTreeMap<String, Array>) {
    let folder = tempfile::tempdir().unwrap();
    let config = adapter::read_config(&fixture("peft/lora_all_rslora")).unwrap();
    adapter::save(folder.path(), &mut model.clone(), &config, "base").unwrap();
    let mut again = Model::load(&fixture("peft/base"), LoadDtype::F32, &Device::flex()).unwrap();
    let (read, _) = adapter::load(folder.path(), &mut again).unwrap();
    let (PeftConfig::Lora(one), PeftConfig::Lora(both)) = (&config, &read) else {
        panic!("LoRA")
    };
    assert_eq!(both.rank, 2 * one.rank);
    let mut folded = model.valid();
    ft_peft::fold(&mut folded).unwrap();
    let ids = [1, 50, 51, 52, 53];
    for model in [model.valid(), again, folded] {
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), &model.device());
        let hidden = model.forward(ids, &ft_model::Rows::packed(None), None, &ft_peft::Pass::eval());
        let [_, n, _] = hidden.dims();
        let logits: Tensor<3> = model.logits(hidden);
        let vocabulary = logits.dims()[2];
        close("logits", logits.reshape([n, vocabulary]), &golden["logits"], 1e-4);
    }
}

#[track_caller]
fn compare(case: &str, group: &str, model: &Model, golden: &BTreeMap<String, Array>) {
    let mut model = model.clone();
    let mut count = 0;
    for module in model.target_modules() {
        let ModuleSlot::Projection(slot) = &module.slot else {
            continue;
        };
        let Some(Delta::Lora(lora)) = &slot.delta else { continue };
        for (name, param) in [("lora_A", &lora.a), ("lora_B", &lora.b)] {
            let adapter = if case == "olora" { "second" } else { "default" };
            let key = format!("{group}.base_model.model.{}.{name}.{adapter}.weight", module.path);
            close(
                &format!("{case}: {key}"),
                param.val().without_autodiff(),
                &golden[&key],
                1e-4,
            );
            count += 1;
        }
    }
    assert_eq!(count, 28);
}

/// In one micro-batch and in three.
#[test]
fn gradients_and_steps_equal_the_formulas() {
    let golden = golden();
    let tasks = tasks(&golden);
    for (case, options) in golden["cases"].as_object().unwrap() {
        let expected = arrays(&fixture(&format!("continual/{case}.safetensors")));
        let late = ["ewc", "der", "lwf"].iter().any(|name| options["strategy"] == *name);
        let recorded = if late { 2 } else { 0 };
        for size in [5, 2] {
            let (mut train, batches) = (started(case, &expected), batches(&tasks, size));
            let mut hook = hook(options, &batches, &train);
            let mut optim = Optim::new(&OptimConfig::default()).unwrap();
            for (i, loss) in expected["losses"].values.iter().enumerate() {
                let batch = fed(&mut hook, &batches, 2 + i);
                let step = train
                    .step_gradients(&mut hook, &batch, None, &|| true)
                    .unwrap()
                    .unwrap();
                close_loss(
                    case,
                    step.item.mean_loss().unwrap(),
                    *loss,
                    if i == 0 { 1e-5 } else { 1e-4 },
                );
                let (seen, grads) = copied(&train.model, step.grads);
                if i == recorded {
                    compare(case, "grad", &in_gradients(&train.model, seen), &expected);
                }
                train.model = optim.step(1e-2, train.model, grads);
            }
            compare(case, "after", &train.model, &expected);
            if case == "olora" {
                one_lora(&train.model, &expected);
            }
        }
    }
}

/// The gradients twice.
fn copied(model: &Model, mut grads: GradientsParams) -> (GradientsParams, GradientsParams) {
    struct Copy<'a>(&'a mut GradientsParams, GradientsParams);
    impl ModuleVisitor for Copy<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                self.1.register(param.id, grad);
            }
        }
    }
    let mut copy = Copy(&mut grads, GradientsParams::new());
    model.visit(&mut copy);
    let seen = copy.1;
    (seen, grads)
}

/// The sum over samples of squared gradients in float64, not the square of a sum.
#[test]
fn the_fisher_information_is_that_of_single_samples() {
    let golden = golden();
    let tasks = tasks(&golden);
    let expected = arrays(&fixture("continual/ewc.safetensors"));
    let (train, batches) = (trained(), batches(&tasks, 5));
    let hook = hook(&golden["cases"]["ewc"], &batches, &train);
    let folder = tempfile::tempdir().unwrap();
    hook.save(folder.path(), &train.model).unwrap();
    let state = arrays(&folder.path().join("continual.safetensors"));
    let by_path = lora_names(&train.model);
    let mut seen = 0;
    for param in named_parameters(&train.model) {
        let found = &state[&format!("fisher.{}", param.path)];
        let wanted = &expected[&format!("fisher.{}", by_path[&param.path])];
        let largest = wanted.values.iter().copied().fold(0.0, f64::max);
        for (a, b) in found.values.iter().zip(&wanted.values) {
            assert!(
                (a - b).abs() <= 1e-5 * largest.max(1e-9) + 1e-4 * b,
                "{}: {a} and {b}",
                param.path
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 28);
}

/// The names of PEFT by the paths of our parameters, which end in the module's path, `delta`, and `a` or `b`.
fn lora_names(model: &Model) -> BTreeMap<String, String> {
    let modules: Vec<String> = model
        .clone()
        .target_modules()
        .iter()
        .map(|m| m.path.to_string())
        .collect();
    let name = |path: &str| {
        let (module, leaf) = path.split_once(".delta.").expect("an adapter");
        let module = modules
            .iter()
            .find(|own| module.ends_with(own.strip_prefix("model.").unwrap_or(own)))
            .expect("a target module");
        let leaf = if leaf.ends_with('a') { "lora_A" } else { "lora_B" };
        format!("base_model.model.{module}.{leaf}.default.weight")
    };
    let params = named_parameters(model).into_iter();
    params.map(|param| (param.path.clone(), name(&param.path))).collect()
}

/// To first order: the product of the step's gradient with that of every memory is not negative.
#[test]
fn after_a_projected_step_no_past_loss_rises() {
    let golden = golden();
    let tasks = tasks(&golden);
    let (train, batches) = (trained(), batches(&tasks, 5));
    let rows = [(0..2).collect::<Vec<usize>>(), (2..5).collect()];
    let past: Vec<Vec<f64>> = rows
        .iter()
        .map(|rows| plain(&train, &batches.step_batch(rows, 2)))
        .collect();
    let together = plain(&train, &batches.step_batch(&rows.concat(), 2));
    let own = plain(&train, &batches.step_batch(&(5..10).collect::<Vec<_>>(), 2));
    assert!(past.iter().any(|past| dot(past, &own) < 0.0), "a conflict");
    for margin in [0.0, 0.5] {
        let mut hook = hook(&json!({"strategy": "gem", "margin": margin}), &batches, &train);
        let step = projected(&train, &mut hook, &batches);
        for past in &past {
            let product = dot(past, &step) / (dot(past, past) * dot(&step, &step)).sqrt();
            assert!(product > -1e-5, "margin {margin}: {product}");
        }
    }
    let mut hook = hook(&json!({"strategy": "agem", "sample": 100}), &batches, &train);
    let step = projected(&train, &mut hook, &batches);
    let product = dot(&together, &step) / (dot(&together, &together) * dot(&step, &step)).sqrt();
    assert!(product.abs() < 1e-5, "{product}");
}

fn projected(train: &TrainModel, hook: &mut MethodHook, batches: &Batches) -> Vec<f64> {
    let batch = fed(hook, batches, 2);
    let step = train.step_gradients(hook, &batch, None, &|| true).unwrap().unwrap();
    flat(&train.model, step.grads)
}

fn plain(train: &TrainModel, batch: &StepBatch) -> Vec<f64> {
    let step = train.gradients(batch, &|| true).unwrap().unwrap();
    let count = step.item.count as f64;
    flat(&train.model, step.grads).into_iter().map(|x| x / count).collect()
}

fn flat(model: &Model, grads: GradientsParams) -> Vec<f64> {
    let mut model = in_gradients(model, grads);
    let mut all = Vec::new();
    for module in model.target_modules() {
        let ModuleSlot::Projection(slot) = &module.slot else {
            continue;
        };
        let Some(Delta::Lora(lora)) = &slot.delta else { continue };
        for param in [&lora.a, &lora.b] {
            let values = param.val().without_autodiff();
            all.extend(
                values
                    .into_data()
                    .try_into_vec::<f32>()
                    .unwrap()
                    .into_iter()
                    .map(f64::from),
            );
        }
    }
    all
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
