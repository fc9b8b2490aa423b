//! Masked language modelling: the head against transformers and PEFT, and runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_data::{Batch, Sample};
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, adapter, attach, methods::full::FullConfig};
use ft_train::objectives::nll_sum;
use serde_json::json;

use crate::production::{close_loss, in_gradients};
use crate::support::{Array, arrays, close, fixture};
use crate::train_support::Workshop;

const CASES: [&str; 4] = [
    "bert_masked",
    "distilbert_masked",
    "roberta_masked",
    "modernbert_masked",
];

fn folder(name: &str) -> PathBuf {
    fixture("heads").join(name)
}

fn golden(name: &str) -> BTreeMap<String, Array> {
    arrays(&folder(name).join("golden.safetensors"))
}

/// The rows of a golden file side by side, and all in one.
fn layouts(golden: &BTreeMap<String, Array>) -> [Batch; 2] {
    let (ids, mask, labels) = (&golden["input_ids"], &golden["attention_mask"], &golden["labels"]);
    let width = ids.shape[1];
    let length = |row: usize| mask.values[row * width..][..width].iter().sum::<f64>() as usize;
    let sample = |row: usize| {
        let ids = ids.values[row * width..][..length(row)].iter().map(|id| *id as u32);
        let sample = Sample::answered(ids.collect(), usize::MAX);
        match golden.contains_key("token_type_ids") {
            true => sample.with_second(golden["second"].values[row] as usize % length(row)),
            false => sample,
        }
    };
    let samples: Vec<Sample> = (0..ids.shape[0]).map(sample).collect();
    let all: Vec<&Sample> = samples.iter().collect();
    [Batch::new(&all, 0, 1), Batch::packed(&[all], 0, 8)].map(|mut batch| {
        for sequence in 0..batch.sequences() {
            let own = &labels.values[sequence * width..];
            for (column, cell) in batch.cells(sequence).enumerate().filter(|(at, _)| own[*at] >= 0.0) {
                batch.positions.push(cell as i32);
                batch.targets.push(own[column] as i32);
                batch.sequence_of.push(sequence as i32);
            }
        }
        batch
    })
}

fn hidden(model: &Model, batch: &Batch) -> Tensor<3> {
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    let ids = Tensor::<2, Int>::from_data(ids, &model.device());
    model.forward(ids, &model.rows(batch.layout()), None, &Pass::eval())
}

fn loss(model: &Model, batch: &Batch) -> Tensor<1> {
    let sum = nll_sum(model, hidden(model, batch), batch, 0.0);
    sum.div_scalar(batch.target_tokens() as f64)
}

/// Logits of what is not padding, row by row, against transformers'.
fn close_logits(name: &str, model: &Model, golden: &BTreeMap<String, Array>, key: &str) {
    let batch = &layouts(golden)[0];
    let [_, width, vocab] = golden[key].shape[..] else {
        panic!("rank 3")
    };
    let found: Vec<f32> = model.logits(hidden(model, batch)).into_data().iter().collect();
    let mut worst = 0.0f64;
    for (row, length) in batch.lengths.iter().enumerate() {
        for at in row * width * vocab..(row * width + length) * vocab {
            worst = worst.max((f64::from(found[at]) - golden[key].values[at]).abs());
        }
    }
    assert!(worst < 5e-5, "{name}: {key}: differs by {worst:e}");
}

#[test]
fn logits_losses_and_gradients_equal_transformers_padded_and_packed() {
    for name in CASES {
        let golden = golden(name);
        let mut model = Model::load(&folder(name), LoadDtype::F32, &Device::flex().autodiff()).unwrap();
        assert!(model.config().fills_masks() && !model.writes(), "{name}");
        close_logits(name, &model, &golden, "logits");
        attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
        for batch in layouts(&golden) {
            let mean = loss(&model, &batch);
            close_loss(
                name,
                mean.clone().into_scalar::<f32>().into(),
                golden["loss"].values[0],
                1e-5,
            );
            let grads = GradientsParams::from_grads(mean.backward(), &model);
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

#[test]
fn adapters_are_read_trained_and_written_as_peft_does() {
    for name in CASES {
        let golden = golden(name);
        let mut model = Model::load(&folder(name), LoadDtype::F32, &Device::flex().autodiff()).unwrap();
        let (config, _) = adapter::load(&folder(name).join("adapter"), &mut model).unwrap();
        close_logits(name, &model, &golden, "lora_logits");
        let own = loss(&model, &layouts(&golden)[1]);
        close_loss(
            name,
            own.clone().into_scalar::<f32>().into(),
            golden["lora_loss.0"].values[0],
            1e-5,
        );
        let grads = GradientsParams::from_grads(own.backward(), &model);
        let scratch = tempfile::tempdir().unwrap();
        adapter::save(scratch.path(), &mut in_gradients(&model, grads), &config, "base").unwrap();
        let found = arrays(&scratch.path().join("adapter_model.safetensors"));
        for (key, found) in &found {
            let expected = &golden[&format!("lora_grad.{key}")];
            let pairs = found.values.iter().zip(&expected.values);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-4, "{name}: {key}: differs by {worst:e}");
        }
        adapter::save(scratch.path(), &mut model, &config, "base").unwrap();
        let [of_peft, ours] = [folder(name).join("adapter"), scratch.path().into()]
            .map(|folder: PathBuf| arrays(&folder.join("adapter_model.safetensors")));
        assert!(of_peft.keys().eq(ours.keys()), "{name}: {:?}", ours.keys());
        let text = fs::read(scratch.path().join("adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(config["task_type"], json!(null), "{name}");
    }
}

#[test]
fn a_model_is_written_as_it_was_read_and_without_the_head_it_has_none() {
    for name in CASES {
        let model = Model::load(&folder(name), LoadDtype::F32, &Device::flex()).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        model.save(scratch.path(), LoadDtype::Auto).unwrap();
        let [theirs, ours] =
            [folder(name), scratch.path().into()].map(|folder: PathBuf| arrays(&folder.join("model.safetensors")));
        assert!(theirs.keys().eq(ours.keys()), "{name}: {:?}", ours.keys());
        for (key, value) in &theirs {
            assert_eq!(ours[key].values, value.values, "{name}: {key}");
        }
    }
    // The class of a sentence encoder often is the one that it was trained from.
    let bare = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(folder("bert").join("config.json")).unwrap();
    let config = config.replace("BertForSequenceClassification", "BertForMaskedLM");
    fs::write(bare.path().join("config.json"), config).unwrap();
    let weights = "model.safetensors";
    fs::copy(folder("bert").join(weights), bare.path().join(weights)).unwrap();
    let model = Model::load(bare.path(), LoadDtype::F32, &Device::flex()).unwrap();
    assert!(!model.config().fills_masks());
}

const SETS: [&str; 7] = [
    "objective.kind=mlm",
    "data.train=TEXTS",
    "data.valid=TEXTS",
    "data.format=text",
    "eval.samples=0",
    "optim.lr=2e-2",
    "peft.method=full",
];

/// Texts in which every letter follows from the ones beside it.
fn workshop(name: &str) -> (Workshop, Vec<String>) {
    let workshop = Workshop::new();
    workshop.encoder("base", &folder(name));
    let lines = (0..24).map(|n| {
        let mut letters = vec!["a", "b", "c", "d", "e", "f", "g", "h"];
        letters.rotate_left(n % 8);
        letters.truncate(5 + n % 3);
        json!({ "text": letters.join(" ") }).to_string() + "\n"
    });
    let path = workshop.path("texts.jsonl");
    fs::write(&path, lines.collect::<String>()).unwrap();
    let sets = SETS.iter().map(|set| set.replace("TEXTS", &path.display().to_string()));
    let sets = sets.collect();
    (workshop, sets)
}

fn refs(sets: &[String]) -> Vec<&str> {
    sets.iter().map(String::as_str).collect()
}

#[test]
fn an_encoder_learns_to_fill_in_and_is_written_with_its_head() {
    for name in CASES {
        let (workshop, sets) = workshop(name);
        let outcome = workshop
            .fit("run", &refs(&sets))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
        assert!(
            after.loss < 0.7 * before.loss,
            "{name}: {} to {}",
            before.loss,
            after.loss
        );
        let folder = workshop.path("run/final");
        let config = ModelConfig::from_dir(&folder).unwrap();
        assert!(config.fills_masks(), "{name}");
        let model = Model::load(&folder, LoadDtype::F32, &Device::flex()).unwrap();
        assert!(model.is_tied(), "{name}");
        let names: Vec<String> = arrays(&folder.join("model.safetensors")).into_keys().collect();
        let before: Vec<String> = arrays(&workshop.path("base/model.safetensors")).into_keys().collect();
        assert_eq!(names, before, "{name}");
    }
}

#[test]
fn a_resumed_run_and_one_that_cuts_its_steps_otherwise_hide_the_same() {
    let (workshop, sets) = workshop("distilbert_masked");
    workshop.fit("whole", &refs(&sets)).unwrap();
    workshop.fit_until("parts", &refs(&sets), 6);
    workshop.resume("parts", &refs(&sets)).unwrap();
    assert_eq!(workshop.result("whole", 12), workshop.result("parts", 12));
    assert_eq!(workshop.curve("whole"), workshop.curve("parts"));
    let cut = ["train.batch_size=4".to_string(), "train.accumulation=1".into()];
    workshop.fit("cut", &refs(&[sets, cut.to_vec()].concat())).unwrap();
    let losses = |run: &str| {
        workshop
            .curve(run)
            .into_iter()
            .filter_map(|(_, loss, _)| loss)
            .collect::<Vec<_>>()
    };
    for (whole, cut) in losses("whole").into_iter().zip(losses("cut")) {
        assert!((whole - cut).abs() < 1e-3, "{whole} and {cut}");
    }
}

#[test]
fn what_cannot_fill_in_is_refused() {
    let (workshop, sets) = workshop("bert_masked");
    let with = |more: &str| [sets.clone(), vec![more.into()]].concat();
    let error = |sets: &[String]| workshop.plan("run", &refs(sets)).unwrap_err().to_string();
    let found = error(&with("objective.mask_probability=0"));
    assert!(
        found.contains("objective.mask_probability: must be a number above 0"),
        "{found}"
    );
    let found = error(&with("eval.metrics=[\"bleu\"]"));
    assert!(found.contains("this one fills in masked tokens"), "{found}");
    let found = error(&[sets[1..6].to_vec(), vec!["objective.kind=sft".into()]].concat());
    assert!(found.contains("objective.kind = \"mlm\""), "{found}");
    let decoder = Workshop::new();
    let found = decoder
        .plan("run", &["objective.kind=mlm", "data.format=text"])
        .unwrap_err()
        .to_string();
    assert!(found.contains("\"llama\" is a decoder"), "{found}");
    // A checkpoint without the head, and a tokenizer without the token.
    workshop.encoder("base", &folder("bert"));
    let found = workshop.fit("bare", &refs(&sets)).unwrap_err().to_string();
    assert!(
        found.contains("no head that fills in masked tokens; take one of class BertForMaskedLM"),
        "{found}"
    );
    workshop.encoder("base", &folder("bert_masked"));
    let tokenizer = workshop.path("base/tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap().replace("[MASK]", "[COVER]");
    fs::write(&tokenizer, text).unwrap();
    fs::remove_file(workshop.path("base/tokenizer_config.json")).unwrap();
    let found = workshop.fit("unmasked", &refs(&sets)).unwrap_err().to_string();
    assert!(found.contains("mask_token"), "{found}");
}
