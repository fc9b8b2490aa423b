//! Gated DeltaNet (Qwen 3.5) over texts longer than a chunk: logits, gradients, cache, documents that share a row, adapters, codes.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use ft_data::{Batch, Sample};
use ft_infer::{GenerationConfig, generate, no_stream};
use ft_model::{KvCache, LoadDtype, Model, ModelConfig, Rows};
use ft_optim::{AdamWConfig, Optim, OptimConfig};
use ft_peft::methods::full::FullConfig;
use ft_peft::methods::lora::LoraConfig;
use ft_peft::{Adaptable, Pass, PeftConfig, Targets, adapter, attach};
use ft_quant::{Kind, Scheme};
use ft_train::config::Checkpointing;
use ft_train::{ActivationPolicy, MethodHook, StepBatch};

use crate::methods_laws::{METHODS, config, disturb};
use crate::production::{close_loss, golden_batch, in_gradients, step, step_batch, train_model};
use crate::support::{Array, arrays, close, fixture};

const PROJECTIONS: [&str; 5] = ["in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"];

fn load(device: &Device) -> Model {
    Model::load(&fixture("families/qwen3_5"), LoadDtype::F32, device).unwrap()
}

fn long() -> BTreeMap<String, Array> {
    arrays(&fixture("delta/long.safetensors"))
}

/// The logits of the golden columns.
fn logits(model: &Model, golden: &BTreeMap<String, Array>) -> Tensor<3> {
    let device = model.device();
    let hidden = model.forward(golden["input_ids"].ids(&device), &Rows::Right, None, &Pass::eval());
    let columns: Vec<i32> = golden["columns"].values.iter().map(|column| *column as i32).collect();
    model.logits(hidden.select(1, Tensor::from_ints(columns.as_slice(), &device)))
}

#[test]
fn long_texts_equal_transformers() {
    let golden = long();
    close(
        "logits",
        logits(&load(&Device::flex()), &golden),
        &golden["logits"],
        3e-5,
    );
    let mut model = load(&Device::flex().autodiff());
    attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
    let batch = golden_batch(&golden["input_ids"], &golden["labels"]);
    let (loss, grads) = step(&model, &mut MethodHook::of(&PeftConfig::default()), &batch);
    close_loss("long", loss, golden["loss"].values[0], 1e-5);
    let mut compared = 0;
    for mut module in in_gradients(&model, grads).target_modules() {
        for (leaf, tensor) in module.tensors() {
            let key = format!("grad.{}.{leaf}", module.path);
            let Some(expected) = golden.get(&key).cloned().map(Array::flat) else {
                continue;
            };
            let found = tensor.into_data().try_into_vec::<f32>().unwrap();
            let scale = expected
                .values
                .iter()
                .fold(0.0f64, |largest, value| largest.max(value.abs()));
            let pairs = found.iter().zip(&expected.values);
            let worst = pairs.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-4 * scale, "{key}: {worst:e} of {scale:e}");
            compared += 1;
        }
    }
    assert_eq!(compared, 9);
}

#[test]
fn long_prompts_are_continued_as_transformers_does() {
    let golden = long();
    let row = |name: &str, row: usize| -> Vec<u32> {
        let width = golden[name].shape[1];
        golden[name].values[row * width..][..width]
            .iter()
            .map(|id| *id as u32)
            .collect()
    };
    let prompts = [row("prompt_ids", 0)[9..].to_vec(), row("prompt_ids", 1)];
    let expected = [0, 1].map(|at| row("generated_ids", at));
    for batch_size in [1, 2] {
        let config = GenerationConfig {
            batch_size,
            ..GenerationConfig::greedy(12, [])
        };
        let found = generate(&load(&Device::flex()), &prompts, &config, &mut no_stream).unwrap();
        let found: Vec<Vec<u32>> = found.into_iter().map(|own| own.tokens).collect();
        assert_eq!(found, expected, "batches of {batch_size}");
    }
}

#[test]
fn a_cache_goes_on_across_chunks() {
    let (golden, model) = (long(), load(&Device::flex()));
    let ids = golden["input_ids"].ids(&Device::flex());
    for rows in [Rows::Right, Rows::Left(vec![0, 70])] {
        let whole = model.logits(model.forward(ids.clone(), &rows, None, &Pass::eval()));
        let (mut cache, mut start) = (KvCache::new(2), 0);
        for columns in [69, 1, 1, 2, 70, 1, 6] {
            let part = ids.clone().narrow(1, start, columns);
            let part = model.logits(model.forward(part, &rows, Some(&mut cache), &Pass::eval()));
            let expected = whole.clone().narrow(1, start, columns);
            // The padding of the second row promises nothing.
            let first = |x: Tensor<3>| if start < 70 { x.narrow(0, 0, 1) } else { x };
            let difference = (first(part) - first(expected)).abs().max().into_scalar::<f32>();
            assert!(difference < 3e-5, "{rows:?}, {start}: {difference}");
            start += columns;
        }
        assert_eq!((cache.resumes(150), cache.resumes(149)), (150, 0));
    }
}

fn document(salt: usize, len: usize) -> Sample {
    let ids = (0..len).map(|i| ((i * 7 + salt * 13) % 90 + 3) as u32).collect();
    Sample::new(ids, (0..len).map(|i| i != 2).collect())
}

/// The loss, and the gradient of every tensor.
fn gradients(model: &Model, batch: &StepBatch, checkpointing: Checkpointing) -> (f64, Vec<(String, Vec<f32>)>) {
    let activations = ActivationPolicy {
        checkpointing,
        offload: false,
    };
    let output = train_model(model.clone(), activations)
        .gradients(batch, &|| true)
        .unwrap()
        .unwrap();
    let loss = output.item.mean_loss().unwrap();
    let mut found = Vec::new();
    for mut module in in_gradients(model, output.grads).target_modules() {
        let path = module.path.clone();
        let data = module.tensors().into_iter();
        found.extend(data.map(|(leaf, tensor)| (format!("{path}.{leaf}"), tensor.into_data().try_into_vec().unwrap())));
    }
    (loss, found)
}

#[test]
fn documents_that_share_a_row_compute_what_they_compute_alone_however_much_is_kept() {
    let mut model = load(&Device::flex().autodiff());
    attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
    let documents = [(1, 90), (2, 38), (3, 1), (4, 70), (5, 64)].map(|(salt, len)| document(salt, len));
    let all: Vec<&Sample> = documents.iter().collect();
    let alone = step_batch(0, [Batch::new(&all, 0, 1)]);
    let packed = step_batch(0, [Batch::packed(std::slice::from_ref(&all), 0, 1)]);
    let (loss, expected) = gradients(&model, &alone, Checkpointing::Off);
    for (batch, checkpointing) in [
        (&packed, Checkpointing::Off),
        (&packed, Checkpointing::Every(1)),
        (&alone, Checkpointing::Every(1)),
    ] {
        let (other, found) = gradients(&model, batch, checkpointing);
        assert!((loss - other).abs() < 1e-5 * loss, "{loss} {other}");
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let scale = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let pairs = found.iter().zip(expected);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 3e-5 * scale, "{name}: {worst:e} of {scale:e}");
        }
    }
}

#[test]
fn peft_s_lora_on_its_projections_is_read_trained_and_written() {
    let (golden, folder) = (long(), fixture("delta/lora"));
    let lora = arrays(&folder.join("golden.safetensors"));
    let mut model = load(&Device::flex().autodiff());
    let (config, attached) = adapter::load(&folder, &mut model).unwrap();
    assert_eq!(attached.choice.adapted.len(), PROJECTIONS.len());
    close(
        "lora",
        logits(&model, &golden).without_autodiff(),
        &lora["logits"],
        3e-5,
    );
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("adapter_model.safetensors");
    adapter::save(scratch.path(), &mut model, &config, "base").unwrap();
    let [of_peft, ours] = [&folder.join("adapter_model.safetensors"), &file].map(|file| arrays(file));
    assert!(of_peft.keys().eq(ours.keys()), "{:?}", ours.keys());
    for (key, value) in &of_peft {
        assert_eq!(ours[key].values, value.values, "{key}");
    }
    // The same, of the model that also sees.
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let of_whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = of_whole
        .iter()
        .map(|(name, view)| (name.replace("model.layers", "model.language_model.layers"), view));
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
    let mut other = load(&Device::flex());
    adapter::load(scratch.path(), &mut other).unwrap();
    close("adapter of the whole", logits(&other, &golden), &lora["logits"], 3e-5);
    let batch = golden_batch(&golden["input_ids"], &golden["labels"]);
    let mut optim = Optim::new(&OptimConfig::AdamW(AdamWConfig {
        weight_decay: 0.0,
        ..AdamWConfig::default()
    }))
    .unwrap();
    let (loss, grads) = step(&model, &mut MethodHook::of(&config), &batch);
    close_loss("before", loss, lora["loss.0"].values[0], 1e-5);
    let of_step = step(&model, &mut MethodHook::of(&config), &batch).1;
    adapter::save(scratch.path(), &mut in_gradients(&model, of_step), &config, "base").unwrap();
    let found = arrays(&file);
    for (key, expected) in lora
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("grad.")?, value)))
    {
        let scale = expected
            .values
            .iter()
            .fold(0.0f64, |largest, value| largest.max(value.abs()));
        let pairs = found[key].values.iter().zip(&expected.values);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4 * scale, "{key}: {worst:e} of {scale:e}");
    }
    let model = optim.step(1e-2, model, grads);
    let (loss, _) = step(&model, &mut MethodHook::of(&config), &batch);
    close_loss("after", loss, lora["loss.1"].values[0], 1e-4);
}

#[test]
fn every_projection_is_a_target_in_floats_and_in_codes() {
    let (golden, folder) = (long(), fixture("families/qwen3_5"));
    for scheme in [None, Some(Scheme::new(Kind::Nf4)), Some(Scheme::new(Kind::Int8))] {
        let mut model = Model::load_quantized(&folder, LoadDtype::F32, scheme, &Device::flex().autodiff()).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        // Unpacked, it is the same model.
        model.valid().save(scratch.path(), LoadDtype::F32).unwrap();
        let plain = Model::load(scratch.path(), LoadDtype::F32, &Device::flex()).unwrap();
        let before = logits(&plain, &golden).into_data();
        logits(&model.valid(), &golden)
            .into_data()
            .assert_approx_eq::<f32>(&before, Tolerance::absolute(5e-5));
        let config = PeftConfig::Lora(LoraConfig {
            rank: 2,
            targets: Targets::all_linear(),
            ..LoraConfig::default()
        });
        let attached = attach(&mut model, &config, 0).unwrap();
        for name in PROJECTIONS {
            let own = attached.choice.adapted.iter().filter(|path| path.ends_with(name));
            assert_eq!(own.count(), 1, "{name}: {:?}", attached.choice.adapted);
        }
        disturb(&mut model);
        let moved = logits(&model.valid(), &golden).into_data();
        let batch = golden_batch(&golden["input_ids"], &golden["labels"]);
        let mut optim = Optim::new(&OptimConfig::default()).unwrap();
        let mut losses = Vec::new();
        let mut trained = model.clone();
        for _ in 0..4 {
            let (loss, grads) = step(&trained, &mut MethodHook::of(&config), &batch);
            losses.push(loss);
            trained = optim.step(1e-2, trained, grads);
        }
        assert!(losses[3] < losses[0], "{losses:?}");
        ft_peft::fold(&mut model).unwrap();
        let folded = logits(&model.valid(), &golden).into_data();
        folded.assert_approx_eq::<f32>(&moved, Tolerance::absolute(2e-4));
    }
}

#[test]
fn every_method_but_prefixes_is_attached_packed_and_merged() {
    let documents = [(1, 7), (2, 66), (3, 1), (4, 20)].map(|(salt, len)| document(salt, len));
    let all: Vec<&Sample> = documents.iter().collect();
    let batches = [Batch::new(&all, 0, 1), Batch::packed(std::slice::from_ref(&all), 0, 1)];
    let [alone, packed] = batches.map(|batch| step_batch(0, [batch]));
    let golden = long();
    let mut refused = Vec::new();
    for (options, _) in METHODS {
        let mut model = load(&Device::flex().autodiff());
        if let Err(why) = attach(&mut model, &config(options), 3) {
            refused.push(format!("{options}: {why}"));
            continue;
        }
        disturb(&mut model);
        let loss = |batch| {
            let output = train_model(model.clone(), ActivationPolicy::default()).gradients(batch, &|| true);
            output.unwrap().unwrap().item.mean_loss().unwrap()
        };
        let (alone, packed) = (loss(&alone), loss(&packed));
        assert!((alone - packed).abs() < 1e-5 * alone, "{options}: {alone} {packed}");
        let mut plain = model.valid();
        if ft_peft::mergeable(&mut plain).is_ok() {
            let before = logits(&plain, &golden).into_data();
            ft_peft::fold(&mut plain).unwrap();
            let after = logits(&plain, &golden).into_data();
            after.assert_approx_eq::<f32>(&before, Tolerance::absolute(1e-3));
        }
    }
    // Prefixes, the method that trains biases, and what needs more rows than there are heads.
    let reasons = [
        "a prefix could stand before",
        "no layer with a bias",
        "model.layers.0.linear_attn.in_proj_b",
    ];
    let known = |why: &String| reasons.iter().any(|reason| why.contains(reason));
    assert!(
        refused.iter().all(known) && refused.len() < METHODS.len() / 4,
        "{refused:#?}"
    );
}

#[test]
fn what_it_cannot_do_is_refused() {
    let mut model = load(&Device::flex());
    let prefix = attach(&mut model, &config(r#"{"method": "prefix_tuning"}"#), 0)
        .unwrap_err()
        .to_string();
    assert!(
        prefix.contains("no attention that a prefix could stand before"),
        "{prefix}"
    );
    let saved = config(r#"{"method": "lora", "modules_to_save": ["conv1d"]}"#);
    let saved = attach(&mut model, &saved, 0).unwrap_err().to_string();
    assert!(saved.contains("conv1d trains with method = \"full\""), "{saved}");
    let convolution = attach(&mut model, &config(r#"{"method": "lora", "targets": ["conv1d"]}"#), 0).unwrap_err();
    assert!(convolution.to_string().contains("is a convolution"), "{convolution}");
    let text = std::fs::read_to_string(fixture("families/qwen3_5/config.json")).unwrap();
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let changed = text.replace(from, to);
        ModelConfig::from_json(&changed, "config.json".as_ref())
            .unwrap_err()
            .to_string()
    };
    let kind = error("\"linear_attention\"", "\"mamba\"");
    assert!(kind.contains("layer_types: \"mamba\" is not supported"), "{kind}");
    let heads = error("\"linear_num_key_heads\": 2", "\"linear_num_key_heads\": 3");
    assert!(heads.contains("linear_num_value_heads: 3 key heads"), "{heads}");
    let none = error("\"linear_conv_kernel_dim\": 4", "\"linear_conv_kernel_dim\": 0");
    assert!(none.contains("linear_conv_kernel_dim"), "{none}");
}

/// The text of Qwen3_5ForConditionalGeneration, beside a tower and layers that guess ahead.
#[test]
fn the_language_model_of_the_vision_model_is_taken_out() {
    let (source, dir) = (fixture("families/qwen3_5"), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    let whole = serde_json::json!({
        "model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": text,
        "tie_word_embeddings": true, "vision_config": {"model_type": "qwen3_5", "hidden_size": 8},
    });
    std::fs::write(dir.path().join("config.json"), whole.to_string()).unwrap();
    let norm = || file.tensor("model.norm.weight").unwrap();
    let tensors = file
        .iter()
        .map(|(name, view)| (name.replace("model.", "model.language_model."), view));
    let beside = [
        ("model.visual.norm.weight".to_owned(), norm()),
        ("mtp.norm.weight".to_owned(), norm()),
    ];
    safetensors::serialize_to_file(tensors.chain(beside), None, &dir.path().join("model.safetensors")).unwrap();
    let model = Model::load(dir.path(), LoadDtype::F32, &Device::flex()).unwrap();
    let golden = long();
    close("text", logits(&model, &golden), &golden["logits"], 3e-5);
    let checkpoint = ft_model::Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.left_out(), ["model.visual.norm.weight", "mtp.norm.weight"]);
}

/// Layers keep their kind when some of them are taken.
#[test]
fn a_student_of_some_layers_has_layers_of_the_same_kinds() {
    let model = load(&Device::flex());
    let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![5i32, 9, 14], [1, 3]), &Device::flex());
    for layer in [0, 1] {
        let student = model.clone().keep_layers(&[layer]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        student.save(dir.path(), LoadDtype::F32).unwrap();
        let again = Model::load(dir.path(), LoadDtype::F32, &Device::flex()).unwrap();
        let [found, expected] = [&again, &student].map(|model| {
            model
                .forward(ids.clone(), &Rows::Right, None, &Pass::eval())
                .into_data()
        });
        found.assert_eq(&expected, true);
        assert_eq!(again.config().recurs(), layer == 0);
    }
}
