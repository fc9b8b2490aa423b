//! Models with experts: the loss that keeps them busy, adapters on each and on all at once, codes, packed rows, memory.

use std::collections::BTreeMap;
use std::fs;

use burn::module::Module;
use burn::tensor::{Device, Tensor, Tolerance};
use ft_data::{Batch, Sample};
use ft_model::{LoadDtype, Model, ModelConfig, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::methods::full::FullConfig;
use ft_peft::methods::lora::LoraConfig;
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, Targets, adapter, attach};
use ft_quant::{Kind, Scheme};
use ft_train::config::Checkpointing;
use ft_train::{ActivationPolicy, MethodHook};
use serde_json::{Value, json};

use crate::methods_laws::disturb;
use crate::production::{close_loss, golden_batch, in_gradients, step, step_batch, train_model};
use crate::support::{Array, arrays, close, fixture};

const FAMILIES: [&str; 4] = ["qwen2_moe", "qwen3_moe", "mixtral", "gpt_oss"];

fn golden(name: &str) -> BTreeMap<String, Array> {
    arrays(&fixture("families").join(name).join("golden.safetensors"))
}

fn load(name: &str, device: &Device) -> Model {
    Model::load(&fixture("families").join(name), LoadDtype::F32, device).unwrap()
}

fn logits(model: &Model, ids: &Array) -> Tensor<3> {
    let hidden = model.forward(ids.ids(&model.device()), &Rows::Right, None, &Pass::eval());
    model.logits(hidden)
}

/// The family's checkpoint with `output_router_logits` on and this weight of the loss over routers.
fn balanced(name: &str, device: &Device) -> Model {
    let folder = fixture("families").join(name);
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    config["output_router_logits"] = true.into();
    config["router_aux_loss_coef"] = json!(0.5);
    let config = ModelConfig::from_json(&config.to_string(), "config.json".as_ref()).unwrap();
    Model::load_configured(config, &folder, LoadDtype::F32, None, None, device).unwrap()
}

#[test]
fn the_loss_that_keeps_experts_busy_is_that_of_transformers_however_blocks_are_computed() {
    for name in FAMILIES {
        let golden = golden(name);
        let mut model = balanced(name, &Device::flex().autodiff());
        attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
        let batch = golden_batch(&golden["input_ids"], &golden["labels"]);
        for checkpointing in [Checkpointing::Off, Checkpointing::Every(1), Checkpointing::Every(2)] {
            let activations = ActivationPolicy {
                checkpointing,
                offload: false,
            };
            let train = train_model(model.clone(), activations);
            let mut hook = MethodHook::of(&PeftConfig::default());
            let output = train
                .step_gradients(&mut hook, &batch, None, &|| true)
                .unwrap()
                .unwrap();
            close_loss(
                name,
                output.item.mean_loss().unwrap(),
                golden["balanced_loss"].values[0],
                1e-5,
            );
            let mut compared = 0;
            for mut module in in_gradients(&model, output.grads).target_modules() {
                let key = format!("balanced_grad.{}.weight", module.path);
                let Some(expected) = golden.get(&key) else { continue };
                let (_, AnyTensor::Matrix(found)) = module.tensors().remove(0) else {
                    panic!("a matrix")
                };
                close(&key, found.without_autodiff(), expected, 1e-4);
                compared += 1;
            }
            assert!(compared >= 3, "{name}: {compared}");
        }
        let plain = golden["loss"].values[0];
        assert!((golden["balanced_loss"].values[0] - plain).abs() > 0.1, "{name}");
    }
}

#[test]
fn padding_is_nobodys_token() {
    let golden = golden("qwen3_moe");
    let mut model = balanced("qwen3_moe", &Device::flex().autodiff());
    attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();
    let ids: Vec<u32> = golden["input_ids"].values[..9].iter().map(|id| *id as u32).collect();
    let sample = |n: usize| Sample::answered(ids[..n].to_vec(), 1);
    let (long, short) = (sample(9), sample(4));
    let rows = [&long, &short];
    let loss = |batch: Batch| {
        step(
            &model,
            &mut MethodHook::of(&PeftConfig::default()),
            &step_batch(0, [batch]),
        )
        .0
    };
    let (padded, packed) = (
        loss(Batch::new(&rows, 0, 16)),
        loss(Batch::packed(&[rows.to_vec()], 0, 1)),
    );
    assert!((padded - packed).abs() < 1e-5, "{padded} and {packed}");
}

/// PEFT's adapters on all experts of a layer at once.
#[test]
fn target_parameters_are_read_trained_and_written_as_peft_does() {
    for (name, family) in [
        ("gemma2", "gemma2"),
        ("both", "qwen3_moe"),
        ("down", "qwen3_moe"),
        ("mixtral", "mixtral"),
        ("gpt_oss", "gpt_oss"),
    ] {
        let (base, family) = (fixture("families").join(family), golden(family));
        let folder = fixture("experts").join(name);
        let golden = arrays(&folder.join("golden.safetensors"));
        let config = ModelConfig::from_dir(&base).unwrap().with_head_of(&folder).unwrap();
        let device = Device::flex().autodiff();
        let mut model = Model::load_configured(config, &base, LoadDtype::F32, None, None, &device).unwrap();
        let (config, attached) = adapter::load(&folder, &mut model).unwrap();
        close(
            name,
            logits(&model, &family["input_ids"]).without_autodiff(),
            &golden["logits"],
            2e-5,
        );
        let batch = golden_batch(&family["input_ids"], &family["labels"]);
        let (loss, grads) = step(&model, &mut MethodHook::of(&config), &batch);
        close_loss(name, loss, golden["loss.0"].values[0], 1e-5);

        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("adapter_model.safetensors");
        adapter::save(scratch.path(), &mut in_gradients(&model, grads), &config, "base").unwrap();
        let found = arrays(&file);
        let expected = golden
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("grad.")?, value)));
        let mut compared = 0;
        for (key, expected) in expected {
            let found = found
                .get(key)
                .unwrap_or_else(|| panic!("{name}: no {key} in {:?}", found.keys()));
            assert_eq!(found.shape, expected.shape, "{name}: {key}");
            let pairs = found.values.iter().zip(&expected.values);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-4, "{name}: {key}: differs by {worst:e}");
            compared += found.values.len();
        }
        assert_eq!(compared, attached.parameters, "{name}: every tensor that trains");

        adapter::save(scratch.path(), &mut model, &config, "base").unwrap();
        let [of_peft, ours] = [&folder.join("adapter_model.safetensors"), &file].map(|file| arrays(file));
        assert!(of_peft.keys().eq(ours.keys()), "{name}: {:?}", ours.keys());
        for (key, value) in &of_peft {
            assert_eq!(ours[key].values, value.values, "{name}: {key}");
        }
        let read = |folder: &std::path::Path| -> Value {
            serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        for key in ["target_parameters", "target_modules", "r", "lora_alpha"] {
            assert_eq!(read(scratch.path())[key], read(&folder)[key], "{name}: {key}");
        }

        // Merged, it is a checkpoint with the experts one by one.
        let before = logits(&model, &family["input_ids"]).into_data();
        ft_peft::fold(&mut model).unwrap();
        model.save(&scratch.path().join("merged"), LoadDtype::F32).unwrap();
        let merged = Model::load(&scratch.path().join("merged"), LoadDtype::F32, &Device::flex()).unwrap();
        let after = logits(&merged, &family["input_ids"]).into_data();
        after.assert_approx_eq::<f32>(&before, Tolerance::absolute(2e-5));
    }
}

fn lora(targets: Targets, parameters: &[&str]) -> PeftConfig {
    PeftConfig::Lora(LoraConfig {
        rank: 2,
        targets,
        target_parameters: parameters.iter().map(|name| name.to_string()).collect(),
        ..LoraConfig::default()
    })
}

#[test]
fn each_matrix_of_each_expert_is_a_target_and_no_router_is_unless_named() {
    for name in FAMILIES {
        let ids = &golden(name)["input_ids"];
        for scheme in [None, Some(Scheme::new(Kind::Nf4))] {
            let folder = fixture("families").join(name);
            let mut model = Model::load_quantized(&folder, LoadDtype::F32, scheme, &Device::flex()).unwrap();
            let config = lora(Targets::all_linear(), &[]);
            let before = logits(&model, ids).into_data();
            let attached = attach(&mut model, &config, 0).unwrap();
            let adapted = &attached.choice.adapted;
            assert!(
                adapted.iter().any(|path| path.contains(".experts.2.")),
                "{name}: {adapted:?}"
            );
            assert!(
                !adapted
                    .iter()
                    .any(|path| path.ends_with("gate") || path.ends_with("router")),
                "{name}: {adapted:?}"
            );
            logits(&model, ids).into_data().assert_eq(&before, true);
            disturb(&mut model);
            let moved = logits(&model, ids).into_data();
            let scratch = tempfile::tempdir().unwrap();
            adapter::save(scratch.path(), &mut model, &config, "base").unwrap();
            let mut again = Model::load_quantized(&folder, LoadDtype::F32, scheme, &Device::flex()).unwrap();
            adapter::load(scratch.path(), &mut again).unwrap();
            logits(&again, ids).into_data().assert_eq(&moved, true);
            ft_peft::fold(&mut again).unwrap();
            let folded = logits(&again, ids).into_data();
            folded.assert_approx_eq::<f32>(&moved, Tolerance::absolute(1e-4));
        }
        let mut model = load(name, &Device::flex());
        let router = match name {
            "mixtral" => "block_sparse_moe.gate",
            "gpt_oss" => "mlp.router",
            _ => "mlp.gate",
        };
        let attached = attach(&mut model, &lora(Targets::suffixes(&[router]), &[]), 0).unwrap();
        assert!(
            attached.choice.adapted.iter().all(|path| path.ends_with(router)),
            "{name}"
        );
    }
}

#[test]
fn experts_in_codes_are_trained_by_target_parameters_too() {
    let base = fixture("families/qwen3_moe");
    let family = golden("qwen3_moe");
    let config = ModelConfig::from_dir(&base).unwrap().with_fused_experts().unwrap();
    let method = lora(
        Targets::suffixes(&[]),
        &["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    );
    for scheme in [None, Some(Scheme::new(Kind::Nf4)), Some(Scheme::new(Kind::Int8))] {
        let device = Device::flex().autodiff();
        let mut model = Model::load_configured(config.clone(), &base, LoadDtype::F32, scheme, None, &device).unwrap();
        let plain = Model::load_quantized(&base, LoadDtype::F32, scheme, &Device::flex()).unwrap();
        let [fused, apart] = [&model.valid(), &plain].map(|model| logits(model, &family["input_ids"]).into_data());
        fused.assert_approx_eq::<f32>(&apart, Tolerance::absolute(2e-5));
        attach(&mut model, &method, 0).unwrap();
        let mut optim = Optim::new(&OptimConfig::default()).unwrap();
        let batch = golden_batch(&family["input_ids"], &family["labels"]);
        let mut losses = Vec::new();
        for _ in 0..4 {
            let (loss, grads) = step(&model, &mut MethodHook::of(&method), &batch);
            losses.push(loss);
            model = optim.step(1e-2, model, grads);
        }
        assert!(losses[3] < losses[0], "{losses:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let text = fs::read_to_string(fixture("families/qwen3_moe/config.json")).unwrap();
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let changed = text.replace(from, to);
        ModelConfig::from_json(&changed, "config.json".as_ref())
            .unwrap_err()
            .to_string()
    };
    let many = error("\"num_experts_per_tok\": 3", "\"num_experts_per_tok\": 7");
    assert!(many.contains("num_experts_per_tok: 7 of 6 experts"), "{many}");
    let none = error("\"num_local_experts\": 6", "\"num_local_experts\": 0");
    assert!(none.contains("num_experts: must be a positive number"), "{none}");
    for (family, from, to, wrong) in [
        (
            "gpt_oss",
            "\"swiglu_limit\": 0.6",
            "\"swiglu_limit\": 0",
            "swiglu_limit: must be above 0",
        ),
        (
            "gemma2",
            "\"attn_logit_softcapping\": 2.0",
            "\"attn_logit_softcapping\": -2.0",
            "attn_logit_softcapping: must be above 0",
        ),
        (
            "gemma2",
            "\"final_logit_softcapping\": 8.0",
            "\"final_logit_softcapping\": \"8\"",
            "final_logit_softcapping: a number",
        ),
    ] {
        let text = fs::read_to_string(fixture("families").join(family).join("config.json")).unwrap();
        assert!(text.contains(from), "{from}");
        let error = ModelConfig::from_json(&text.replace(from, to), "config.json".as_ref()).unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
    let mixtral = fs::read_to_string(fixture("families/mixtral/config.json")).unwrap();
    let jitter = mixtral.replace("\"router_jitter_noise\": 0.0", "\"router_jitter_noise\": 0.1");
    assert_ne!(jitter, mixtral);
    let jitter = ModelConfig::from_json(&jitter, "config.json".as_ref())
        .unwrap_err()
        .to_string();
    assert!(jitter.contains("router_jitter_noise"), "{jitter}");
    let saved = PeftConfig::Lora(LoraConfig {
        modules_to_save: vec!["self_attn".into()],
        ..LoraConfig::default()
    });
    let saved = attach(&mut load("gpt_oss", &Device::flex()), &saved, 0)
        .unwrap_err()
        .to_string();
    assert!(
        saved.contains("modules_to_save") && saved.contains("method = \"full\""),
        "{saved}"
    );
    let mut model = load("qwen3_moe", &Device::flex());
    let wrong = attach(&mut model, &lora(Targets::all_linear(), &["mlp.experts.gate_up"]), 0).unwrap_err();
    assert!(wrong.to_string().contains("target_parameters"), "{wrong}");
    let dropped = PeftConfig::Lora(LoraConfig {
        dropout: 0.1,
        target_parameters: vec!["mlp.experts.down_proj".into()],
        ..LoraConfig::default()
    });
    let dropped = attach(&mut model, &dropped, 0).unwrap_err().to_string();
    assert!(dropped.contains("does not go with target_parameters"), "{dropped}");
}
