//! Every objective against float64 formulas: losses, figures, gradients, AdamW steps, and two ways to cut a step.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use ft_data::{Batch, DataConfig, Sample, Span, Taught, Tokenizer};
use ft_model::{LoadDtype, Model};
use ft_optim::{Optim, OptimConfig, load_trainable_tensors, trainable_tensors};
use ft_peft::{Adaptable, AnyTensor, Delta, ModuleSlot, PeftConfig, adapter, attach};
use ft_quant::{Kind, Scheme};
use ft_train::config::Checkpointing;
use ft_train::{ActivationPolicy, MethodHook, StepBatch, TrainModel};
use serde_json::{Value, json};

use crate::methods_laws::{METHODS, config, disturb};
use crate::production::{close_loss, in_gradients, objective, step_batch, train_model};
use crate::support::{Array, arrays, close, fixture};

const LR: f64 = 1e-2;

fn golden() -> Value {
    let text = std::fs::read_to_string(fixture("objectives/cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn sample(prompt: &Value, answer: &Value) -> Sample {
    let (prompt, answer) = (tokens(prompt), tokens(answer));
    let learn = (0..prompt.len() + answer.len()).map(|i| i >= prompt.len()).collect();
    Sample::new([prompt, answer].concat(), learn)
}

/// A sample with what a teacher of another tokenizer reads.
fn spanned(value: &Value) -> Sample {
    let ids = |tokens: &Value| {
        tokens
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token[0].clone())
            .collect()
    };
    let range = |group: &Value| {
        let numbers = tokens(group);
        numbers[0]..numbers[numbers.len() - 1] + 1
    };
    let span = |pair: &Value| Span {
        student: range(&pair[0]),
        teacher: range(&pair[1]),
    };
    let spans = value["spans"].as_array().unwrap().iter().map(span).collect();
    let teacher = sample(&value["teacher_prompt"], &ids(&value["teacher_answer"]));
    sample(&value["prompt"], &ids(&value["answer"])).taught(Taught { sample: teacher, spans })
}

/// What an objective with these options learns from.
fn samples(golden: &Value, options: &Value) -> Vec<Sample> {
    let list = |name: &str| golden[name].as_array().unwrap().clone();
    match options["kind"].as_str().unwrap() {
        "distill" if options["divergence"] == "uld" => list("spanned").iter().map(spanned).collect(),
        "distill" => list("samples")
            .iter()
            .map(|s| sample(&s["prompt"], &s["answer"]))
            .collect(),
        "kto" => {
            let rated = |s: &Value| sample(&s["prompt"], &s["answer"]).rated(s["label"].as_bool().unwrap());
            list("rated").iter().map(rated).collect()
        }
        _ => {
            let pair = |p: &Value| sample(&p["prompt"], &p["chosen"]).over(sample(&p["prompt"], &p["rejected"]));
            list("pairs").iter().map(pair).collect()
        }
    }
}

/// A step over all samples in micro-batches of `size`.
fn cut(samples: &[Sample], size: usize) -> StepBatch {
    let batch = |samples: &[Sample]| Batch::new(&samples.iter().collect::<Vec<_>>(), 0, 1);
    step_batch(0, samples.chunks(size).map(batch))
}

fn base(device: &Device) -> Model {
    Model::load(&fixture("peft/base"), LoadDtype::F32, device).unwrap()
}

/// A student in training, with the maps of hidden states that `golden` starts from.
fn trained(options: &Value, golden: &BTreeMap<String, Array>) -> TrainModel {
    let mut options = options.clone();
    if let Some(teacher) = options["teacher"].as_str().filter(|teacher| *teacher != "base") {
        options["teacher"] = fixture("objectives")
            .join(teacher)
            .to_string_lossy()
            .into_owned()
            .into();
    }
    let mut model = base(&Device::flex().autodiff());
    let objective = objective(&options.to_string(), &model);
    adapter::load(&fixture("peft/lora_all_rslora"), &mut model).unwrap();
    let starts: Vec<_> = golden.iter().filter(|(name, _)| name.starts_with("start.")).collect();
    let shapes: Vec<[usize; 2]> = starts.iter().map(|(_, map)| [map.shape[0], map.shape[1]]).collect();
    let mut model = model.with_hidden_projections(&shapes, 0);
    let mut tensors = trainable_tensors(&model);
    for (name, data) in &mut tensors {
        if let Some(start) = golden.get(&format!("start.{name}")) {
            *data = TensorData::new(start.values.iter().map(|x| *x as f32).collect(), start.shape.clone());
        }
    }
    model = load_trainable_tensors(model, tensors).unwrap();
    TrainModel {
        objective,
        ..train_model(model, ActivationPolicy::default())
    }
}

fn adapters(model: &Model) -> BTreeMap<String, AnyTensor> {
    let mut model = model.clone();
    let mut out = BTreeMap::new();
    for module in model.target_modules() {
        if let ModuleSlot::Projection(slot) = &module.slot
            && let Some(Delta::Lora(lora)) = &slot.delta
        {
            for (name, param) in [("lora_A", &lora.a), ("lora_B", &lora.b)] {
                let name = format!("base_model.model.{}.{name}.default.weight", module.path);
                out.insert(name, AnyTensor::Matrix(param.val().without_autodiff()));
            }
        }
    }
    out
}

#[track_caller]
fn compare(case: &str, group: &str, model: &Model, golden: &BTreeMap<String, Array>) {
    let found = adapters(model);
    assert_eq!(found.len(), 28);
    let maps = trainable_tensors(model).into_iter();
    for (name, map) in maps.filter(|(name, _)| name.starts_with("hidden_projections")) {
        let map = Tensor::<2>::from_data(map, &Device::flex());
        close(
            &format!("{case}: {name}"),
            map,
            &golden[&format!("{group}.{name}")],
            1e-4,
        );
    }
    for (name, tensor) in found {
        let AnyTensor::Matrix(tensor) = tensor else {
            panic!("{name}")
        };
        close(
            &format!("{case}: {name}"),
            tensor,
            &golden[&format!("{group}.{name}")],
            1e-4,
        );
    }
}

#[test]
fn losses_figures_gradients_and_steps_equal_the_formulas() {
    let golden = golden();
    for (case, options) in golden["cases"].as_object().unwrap() {
        let expected = arrays(&fixture(&format!("objectives/{case}.safetensors")));
        let samples = samples(&golden, options);
        let mut hook = MethodHook::of(&PeftConfig::default());
        for size in [samples.len(), 2] {
            let train = trained(options, &expected);
            let step = train.step_gradients(&mut hook, &cut(&samples, size), None, &|| true);
            let step = step.unwrap().unwrap();
            close_loss(case, step.item.mean_loss().unwrap(), expected["losses"].values[0], 1e-5);
            for (name, mean) in step.item.figures().unwrap() {
                let Some(figure) = expected.get(&format!("figure.{name}")) else {
                    assert!(name.starts_with("log_odds"), "{case}: {name}");
                    continue;
                };
                close_loss(&format!("{case}: {name}"), mean, figure.values[0], 1e-4);
            }
            compare(case, "grad", &in_gradients(&train.model, step.grads), &expected);
        }
        let (mut train, batch) = (trained(options, &expected), cut(&samples, samples.len()));
        let mut optim = Optim::new(&OptimConfig::default()).unwrap();
        for loss in &expected["losses"].values {
            let step = train
                .step_gradients(&mut hook, &batch, None, &|| true)
                .unwrap()
                .unwrap();
            close_loss(case, step.item.mean_loss().unwrap(), *loss, 1e-4);
            train.model = optim.step(LR, train.model, step.grads);
        }
        compare(case, "after", &train.model, &expected);
    }
}

/// A fresh adapter is the reference.
#[test]
fn a_fresh_adapter_has_the_loss_of_a_coin() {
    let golden = golden();
    let pairs = samples(&golden, &json!({"kind": "dpo"}));
    let mut model = base(&Device::flex().autodiff());
    let objective = objective(r#"{"kind": "dpo"}"#, &model);
    ft_peft::attach(&mut model, &PeftConfig::default(), 1).unwrap();
    let train = TrainModel {
        objective,
        ..train_model(model, ActivationPolicy::default())
    };
    let step = train.gradients(&cut(&pairs, 2), &|| true).unwrap().unwrap();
    close_loss("dpo", step.item.mean_loss().unwrap(), std::f64::consts::LN_2, 1e-6);
}

/// The student is the teacher: nothing to learn.
#[test]
fn distilling_from_oneself_has_neither_loss_nor_gradient() {
    let golden = golden();
    let samples = samples(&golden, &json!({"kind": "distill"}));
    for beta in [0.0, 0.5, 1.0] {
        let mut model = base(&Device::flex().autodiff());
        let options = format!(r#"{{"kind": "distill", "teacher": "base", "alpha": 1.0, "beta": {beta}}}"#);
        let objective = objective(&options, &model);
        ft_peft::attach(&mut model, &PeftConfig::default(), 1).unwrap();
        let train = TrainModel {
            objective,
            ..train_model(model, ActivationPolicy::default())
        };
        let mut hook = MethodHook::of(&PeftConfig::default());
        let step = train
            .step_gradients(&mut hook, &cut(&samples, 2), None, &|| true)
            .unwrap()
            .unwrap();
        close_loss("self", step.item.mean_loss().unwrap(), 0.0, 1e-6);
        let gradients = adapters(&in_gradients(&train.model, step.grads));
        for (name, gradient) in gradients {
            let AnyTensor::Matrix(gradient) = gradient else {
                panic!("{name}")
            };
            let largest = Tensor::abs(gradient).max().into_scalar::<f32>();
            assert!(largest < 1e-5, "{name}: {largest:e}");
        }
    }
}

/// Every token is a span by itself, and both sides are one model.
#[test]
fn sorted_probabilities_are_at_no_distance_from_themselves() {
    let golden = golden();
    let own = |sample: Sample| {
        let count = sample.target_tokens() as u32;
        let span = |number| Span {
            student: number..number + 1,
            teacher: number..number + 1,
        };
        let spans = (0..count).map(span).collect();
        sample.clone().taught(Taught { sample, spans })
    };
    let samples: Vec<Sample> = samples(&golden, &json!({"kind": "distill"}))
        .into_iter()
        .map(own)
        .collect();
    let mut model = base(&Device::flex().autodiff());
    let teacher = fixture("peft/base");
    let options = json!({"kind": "distill", "teacher": teacher, "divergence": "uld", "alpha": 1.0, "temperature": 0.7});
    let objective = objective(&options.to_string(), &model);
    ft_peft::attach(&mut model, &PeftConfig::default(), 1).unwrap();
    let train = TrainModel {
        objective,
        ..train_model(model, ActivationPolicy::default())
    };
    for size in [samples.len(), 1] {
        let step = train.gradients(&cut(&samples, size), &|| true).unwrap().unwrap();
        close_loss("self", step.item.mean_loss().unwrap(), 0.0, 2e-6);
    }
    let plain: Vec<Sample> = samples.iter().filter_map(Sample::wanted).collect();
    let error = train.gradients(&cut(&plain, 2), &|| true).err().unwrap().to_string();
    assert!(error.contains("not read for the teacher"), "{error}");
}

/// The spans that TRL finds by its byte offsets, and one of both stop tokens.
#[test]
fn spans_of_two_tokenizers_are_trls() {
    let tokenizer = |name: &str| Tokenizer::from_dir(&fixture("tokenizers").join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.jsonl");
    let golden = golden();
    let texts = golden["texts"].as_array().unwrap();
    let line = |text: &Value| json!({"prompt": "Write:", "completion": text["text"]}).to_string() + "\n";
    std::fs::write(&file, texts.iter().map(line).collect::<String>()).unwrap();
    let [student, teacher] = ["chatml", "llama"].map(tokenizer);
    let data = ft_data::load_taught(&file, &DataConfig::new(&file), &student, &teacher).unwrap();
    for (sample, text) in data.samples.iter().zip(texts) {
        let spans = &sample.teacher.as_ref().unwrap().spans;
        let mut found: Vec<[usize; 2]> = spans
            .iter()
            .map(|span| [span.student.len(), span.teacher.len()])
            .collect();
        assert_eq!(found.pop(), Some([1, 1]), "the stop tokens");
        assert_eq!(json!(found), text["spans"], "{}", text["text"]);
        assert_eq!(sample.aligned_tokens(), sample.target_tokens());
    }
}

/// Largest difference of two gradients, relative to the largest of the first, over all tensors.
struct Apart<'a> {
    one: &'a GradientsParams,
    other: &'a GradientsParams,
    worst: f32,
}

impl ModuleVisitor for Apart<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (one, other) = (self.one.get::<D>(param.id), self.other.get::<D>(param.id));
        let (Some(one), Some(other)) = (one, other) else {
            panic!("a tensor without a gradient")
        };
        let scale = one.clone().abs().max().into_scalar::<f32>().max(1e-6);
        self.worst = self.worst.max((one - other).abs().max().into_scalar::<f32>() / scale);
    }
}

/// Every objective over every method and storage: two micro-batches whose blocks are computed again give the gradients of one whose
/// blocks are kept.
#[test]
fn gradients_depend_neither_on_the_cut_nor_on_checkpointing_over_every_method_and_storage() {
    let golden = golden();
    let device = Device::flex().autodiff();
    let kinds = [
        ("dpo", r#"{"kind": "dpo", "beta": 0.5, "sft_weight": 0.3}"#),
        ("orpo", r#"{"kind": "orpo"}"#),
        ("kto", r#"{"kind": "kto", "beta": 0.5}"#),
        (
            "distill",
            r#"{"kind": "distill", "teacher": "base", "beta": 0.5, "alpha": 0.4}"#,
        ),
    ];
    let schemes = [None, Some(Scheme::new(Kind::Nf4)), Some(Scheme::new(Kind::Int8))];
    for (options, _) in METHODS.iter().filter(|(options, _)| !options.contains("bitfit")) {
        for (scheme, (kind, objective_options)) in schemes.iter().zip(kinds.iter().cycle()).chain([(&None, &kinds[3])])
        {
            let samples = samples(&golden, &json!({"kind": kind}));
            let folder = fixture("families/llama");
            let mut model = Model::load_quantized(&folder, LoadDtype::F32, *scheme, &device).unwrap();
            let objective = objective(objective_options, &model);
            attach(&mut model, &config(options), 3).unwrap();
            disturb(&mut model);
            let gradients = |size: usize, checkpointing: Checkpointing| {
                let train = TrainModel {
                    objective: objective.clone(),
                    ..train_model(
                        model.clone(),
                        ActivationPolicy {
                            checkpointing,
                            offload: false,
                        },
                    )
                };
                train.gradients(&cut(&samples, size), &|| true).unwrap().unwrap()
            };
            let whole = gradients(samples.len(), Checkpointing::Off);
            let parts = gradients(2, Checkpointing::Every(1));
            let (a, b) = (whole.item.mean_loss().unwrap(), parts.item.mean_loss().unwrap());
            assert!(
                (a - b).abs() < 1e-5 * a.abs().max(1.0),
                "{kind}, {options}, {scheme:?}: {a} and {b}"
            );
            let mut apart = Apart {
                one: &whole.grads,
                other: &parts.grads,
                worst: 0.0,
            };
            model.visit(&mut apart);
            assert!(apart.worst < 2e-4, "{kind}, {options}, {scheme:?}: {:e}", apart.worst);
        }
    }
}
