//! Heads for labels against transformers and PEFT: outputs, losses, gradients, adapters, a training step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use ft_data::{Batch, Sample};
use ft_eval::{head_loss, head_outputs};
use ft_model::{HeadKind, LoadDtype, Model, ModelConfig, Problem};
use ft_peft::methods::{full::FullConfig, lora::LoraConfig};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, adapter, attach};
use ft_quant::{Kind, Scheme};

use crate::methods_laws::disturb;
use crate::production::{close_loss, in_gradients};
use crate::support::{Array, arrays, close, fixture};

/// The cases of `fixtures/heads`.
const CASES: [&str; 10] = [
    "llama",
    "llama_multi",
    "llama_number",
    "gpt2",
    "bert",
    "distilbert",
    "roberta",
    "bert_tokens",
    "modernbert",
    "modernbert_tokens",
];
/// Those that have an adapter of PEFT.
const ADAPTED: [&str; 8] = [
    "llama",
    "gpt2",
    "bert",
    "distilbert",
    "roberta",
    "bert_tokens",
    "modernbert",
    "modernbert_tokens",
];

fn folder(name: &str) -> PathBuf {
    fixture("heads").join(name)
}

pub fn golden(name: &str) -> BTreeMap<String, Array> {
    arrays(&folder(name).join("golden.safetensors"))
}

/// The rows of a golden file, padding left out.
pub fn samples(golden: &BTreeMap<String, Array>, head: &ft_model::HeadConfig) -> Vec<Sample> {
    let (ids, mask, labels) = (&golden["input_ids"], &golden["attention_mask"], &golden["labels"]);
    let (rows, width) = (ids.shape[0], ids.shape[1]);
    let own = |array: &Array, row: usize| array.values[row * width..][..width].to_vec();
    let sample = |row: usize| {
        let length = own(mask, row).iter().sum::<f64>() as usize;
        let ids: Vec<u32> = own(ids, row)[..length].iter().map(|id| *id as u32).collect();
        let sample = Sample::answered(ids, usize::MAX);
        let sample = match golden.contains_key("token_type_ids") {
            true => sample.with_second(golden["second"].values[row] as usize % length),
            false => sample,
        };
        let label = |of: &[f64]| of.iter().map(|x| *x as f32).collect::<Vec<_>>();
        match head.kind {
            HeadKind::Token => sample.tagged(&label(&own(labels, row)[..length])),
            HeadKind::Sequence => {
                let per_row = labels.values.len() / rows;
                sample.labelled(&label(&labels.values[row * per_row..][..per_row]))
            }
        }
    };
    (0..rows).map(sample).collect()
}

/// The rows side by side, and all in one.
pub fn layouts(samples: &[Sample]) -> [Batch; 2] {
    let all: Vec<&Sample> = samples.iter().collect();
    [Batch::new(&all, 0, 1), Batch::packed(&[all], 0, 8)]
}

pub fn outputs(model: &Model, batch: &Batch, pass: &Pass) -> Tensor<2> {
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    let ids = Tensor::<2, Int>::from_data(ids, &model.device());
    head_outputs(
        model,
        model.forward(ids, &model.rows(batch.layout()), None, pass),
        batch,
    )
}

/// transformers' outputs of what has a label.
fn expected(golden: &BTreeMap<String, Array>, name: &str, head: &ft_model::HeadConfig) -> Array {
    let logits = &golden[name];
    if head.kind == HeadKind::Sequence {
        return logits.clone();
    }
    let width = logits.shape[2];
    let learned = golden["labels"]
        .values
        .iter()
        .enumerate()
        .filter(|(_, label)| **label >= 0.0);
    let values: Vec<f64> = learned
        .flat_map(|(at, _)| logits.values[at * width..][..width].to_vec())
        .collect();
    Array {
        shape: vec![values.len() / width, width],
        values,
    }
}

/// The mean loss, and what it is a sum over.
pub fn loss(model: &Model, batch: &Batch, pass: &Pass) -> Tensor<1> {
    let problem = model.head().unwrap().problem;
    head_loss(problem, outputs(model, batch, pass), batch).div_scalar(batch.labelled() as f64)
}

#[test]
fn outputs_and_losses_equal_transformers_padded_and_packed() {
    for name in CASES {
        let golden = golden(name);
        let model = Model::load(&folder(name), LoadDtype::F32, &Device::flex()).unwrap();
        let head = model.head().unwrap();
        for batch in layouts(&samples(&golden, head)) {
            let found = outputs(&model, &batch, &Pass::eval());
            close(name, found, &expected(&golden, "logits", head), 2e-5);
            let mean = loss(&model, &batch, &Pass::eval()).into_scalar::<f32>();
            close_loss(name, mean.into(), golden["loss"].values[0], 1e-5);
        }
    }
}

#[test]
fn full_gradients_equal_torch_padded_and_packed() {
    for name in CASES {
        let golden = golden(name);
        let mut model = Model::load(&folder(name), LoadDtype::F32, &Device::flex().autodiff()).unwrap();
        attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
        for batch in layouts(&samples(&golden, model.head().unwrap())) {
            let grads = loss(&model, &batch, &Pass::eval()).backward();
            let grads = GradientsParams::from_grads(grads, &model);
            let mut compared = 0;
            for mut module in in_gradients(&model, grads).target_modules() {
                for (leaf, tensor) in module.tensors() {
                    let key = format!("grad.{}.{leaf}", module.path);
                    let expected = golden.get(&key).unwrap_or_else(|| panic!("{name}: no {key}"));
                    match tensor {
                        AnyTensor::Vector(t) => close(&key, t.without_autodiff(), expected, 1e-4),
                        AnyTensor::Matrix(t) => close(&key, t.without_autodiff(), expected, 1e-4),
                    }
                    compared += 1;
                }
            }
            let all = golden.keys().filter(|key| key.starts_with("grad.")).count();
            assert_eq!(compared, all, "{name}: every gradient");
        }
    }
}

/// The base with the head of PEFT's adapter, and the adapter on it.
pub fn adapted(name: &str, folder: &Path, device: &Device) -> (Model, PeftConfig) {
    let base = self::folder(name);
    let config = ModelConfig::from_dir(&base).unwrap().with_head_of(folder).unwrap();
    let mut model = Model::load_configured(config, &base, LoadDtype::F32, None, Some(0), device).unwrap();
    let (config, _) = adapter::load(folder, &mut model).unwrap();
    (model, config)
}

#[test]
fn adapters_with_a_head_are_read_trained_and_written_as_peft_does() {
    for name in ADAPTED {
        let golden = golden(name);
        let (mut model, config) = adapted(name, &folder(name).join("adapter"), &Device::flex().autodiff());
        let head = model.head().unwrap().clone();
        let batch = &layouts(&samples(&golden, &head))[0];
        let found = outputs(&model, batch, &Pass::eval()).without_autodiff();
        close(name, found, &expected(&golden, "lora_logits", &head), 2e-5);

        let own = loss(&model, batch, &Pass::eval());
        close_loss(
            name,
            own.clone().into_scalar::<f32>().into(),
            golden["lora_loss.0"].values[0],
            1e-5,
        );
        let grads = GradientsParams::from_grads(own.backward(), &model);
        let gradients = tempfile::tempdir().unwrap();
        adapter::save(gradients.path(), &mut in_gradients(&model, grads), &config, "base").unwrap();
        let found = arrays(&gradients.path().join("adapter_model.safetensors"));
        let of_torch = golden
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("lora_grad.")?, value)));
        let mut compared = 0;
        for (key, expected) in of_torch {
            let found = found
                .get(key)
                .unwrap_or_else(|| panic!("{name}: no {key} in {:?}", found.keys()));
            let worst = found
                .values
                .iter()
                .zip(&expected.values)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            assert!(worst < 1e-4, "{name}: {key}: differs by {worst:e}");
            compared += 1;
        }
        assert_eq!(compared, found.len(), "{name}: every tensor that trains");

        // What is written is what PEFT wrote, under the same names.
        let written = tempfile::tempdir().unwrap();
        adapter::save(written.path(), &mut model, &config, "base").unwrap();
        let [of_peft, ours] = [folder(name).join("adapter"), written.path().into()]
            .map(|folder: PathBuf| arrays(&folder.join("adapter_model.safetensors")));
        assert!(of_peft.keys().eq(ours.keys()), "{name}: {:?}", ours.keys());
        for (key, expected) in &of_peft {
            assert_eq!(ours[key].values, expected.values, "{name}: {key}");
        }
        let config = std::fs::read_to_string(written.path().join("adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let task = if head.kind == HeadKind::Token {
            "TOKEN_CLS"
        } else {
            "SEQ_CLS"
        };
        assert_eq!(config["task_type"], task, "{name}");
    }
}

#[test]
fn a_base_without_the_head_gets_one_of_the_adapter() {
    let (with, _) = adapted("llama", &folder("llama").join("adapter"), &Device::flex());
    let base = tempfile::tempdir().unwrap();
    // The same checkpoint as a language model, its head left out of the file.
    let config = std::fs::read_to_string(folder("llama").join("config.json")).unwrap();
    let config = config.replace("LlamaForSequenceClassification", "LlamaForCausalLM");
    std::fs::write(base.path().join("config.json"), config).unwrap();
    std::fs::copy(
        folder("llama").join("model.safetensors"),
        base.path().join("model.safetensors"),
    )
    .unwrap();
    let own = ModelConfig::from_dir(base.path()).unwrap();
    assert_eq!(own.head, None);
    let config = own.with_head_of(&folder("llama").join("adapter")).unwrap();
    let head = config.head.clone().unwrap();
    assert_eq!(
        (head.labels.len(), head.problem),
        (3, Problem::SingleLabelClassification)
    );
    let mut model =
        Model::load_configured(config, base.path(), LoadDtype::F32, None, Some(0), &Device::flex()).unwrap();
    adapter::load(&folder("llama").join("adapter"), &mut model).unwrap();
    let batch = &layouts(&samples(&golden("llama"), &head))[0];
    let [a, b] = [&with, &model].map(|model| outputs(model, batch, &Pass::eval()).into_data());
    assert_eq!(a, b);
}

#[test]
fn a_head_that_the_checkpoint_lacks_is_drawn_from_the_seed_or_refused() {
    let base = fixture("families/llama");
    let head = ft_model::HeadConfig {
        kind: HeadKind::Sequence,
        labels: vec!["a".into(), "b".into()],
        problem: Problem::SingleLabelClassification,
    };
    let config = ModelConfig::from_dir(&base).unwrap().with_head(head, None).unwrap();
    let load = |seed| Model::load_configured(config.clone(), &base, LoadDtype::F32, None, seed, &Device::flex());
    let error = load(None).unwrap_err().to_string();
    assert!(error.contains("score.weight: missing"), "{error}");
    let score = |seed| {
        let mut model = load(Some(seed)).unwrap();
        let mut modules = model.target_modules().into_iter();
        let mut score = modules.find(|module| module.path == "score").unwrap();
        let (_, value) = score.tensors().remove(0);
        value.into_data()
    };
    assert_eq!(score(1), score(1));
    assert_ne!(score(1), score(2));
}

#[test]
fn encoders_in_codes_keep_the_laws_of_adapters() {
    for name in ["bert", "distilbert", "roberta", "modernbert"] {
        for kind in [Kind::Nf4, Kind::Int8] {
            let load = || {
                let scheme = Some(Scheme::new(kind));
                Model::load_quantized(&folder(name), LoadDtype::F32, scheme, &Device::flex()).unwrap()
            };
            let mut model = load();
            let batch = &layouts(&samples(&golden(name), model.head().unwrap()))[1];
            let said = |model: &Model| outputs(model, batch, &Pass::eval()).into_data();
            let before = said(&model);
            let config = PeftConfig::Lora(LoraConfig {
                rank: 2,
                ..LoraConfig::default()
            });
            attach(&mut model, &config, 0).unwrap();
            said(&model).assert_eq(&before, true);
            disturb(&mut model);
            let moved = said(&model);
            let written = tempfile::tempdir().unwrap();
            adapter::save(written.path(), &mut model, &config, "base").unwrap();
            let mut again = load();
            adapter::load(written.path(), &mut again).unwrap();
            said(&again).assert_eq(&moved, true);
            ft_peft::fold(&mut again).unwrap();
            said(&again).assert_approx_eq::<f32>(&moved, Tolerance::absolute(1e-4));
        }
    }
}
