//! Every model family against transformers: logits, loss, gradients, left padding, config spellings, files.

use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, ModelConfig, Rows};
use ft_peft::{Pass, PeftConfig, attach, methods::full::FullConfig};
use ft_train::MethodHook;

use crate::production::{close_loss, golden_batch, in_gradients, step};
use crate::support::{Array, arrays, close, fixture};

/// Twice the distance of transformers' own f32 logits from an f64 computation, which is up to 1e-5 on these weights.
const TOLERANCE: f64 = 2e-5;

/// The folders of `fixtures/families` that have gradients and a configuration in both spellings.
pub const FAMILIES: [&str; 21] = [
    "llama",
    "llama3_rope",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_yarn",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3_longrope",
    "smollm3",
    "olmo2",
    "granite",
    "qwen2_moe",
    "qwen3_moe",
    "mixtral",
    "gpt_oss",
    "ministral3",
    "granite4",
    "qwen3_5",
    "gpt2",
];

fn load(name: &str, device: &Device) -> Model {
    Model::load(&fixture("families").join(name), LoadDtype::F32, device).unwrap()
}

fn logits(model: &Model, ids: &Array, rows: &Rows) -> Tensor<3> {
    let hidden = model.forward(ids.ids(&model.device()), rows, None, &Pass::eval());
    model.logits(hidden)
}

#[test]
fn logits_equal_transformers() {
    let same_as = [
        ("llama_sharded", "llama"),
        ("gpt2_hub", "gpt2"),
        ("qwen2_bf16", "qwen2_bf16"),
        ("qwen3_moe_stacked", "qwen3_moe"),
    ];
    for (name, golden) in FAMILIES.map(|name| (name, name)).into_iter().chain(same_as) {
        let golden = arrays(&fixture("families").join(golden).join("golden.safetensors"));
        let model = load(name, &Device::flex());
        close(
            name,
            logits(&model, &golden["input_ids"], &Rows::Right),
            &golden["logits"],
            TOLERANCE,
        );
    }
}

#[test]
fn left_padding_changes_nothing_for_real_tokens() {
    for name in FAMILIES {
        let golden = arrays(&fixture("families").join(name).join("golden.safetensors"));
        let model = load(name, &Device::flex());
        let found = logits(&model, &golden["padded_input_ids"], &Rows::Left(vec![5, 0]));
        let mask = golden["padded_attention_mask"]
            .floats::<2>(&Device::flex())
            .unsqueeze_dim::<3>(2);
        close(name, found * mask, &golden["padded_logits"], TOLERANCE);
    }
}

#[test]
fn full_gradients_equal_torch() {
    let device = Device::flex().autodiff();
    for name in FAMILIES {
        let dir = fixture("families").join(name);
        let (golden, expected) = (
            arrays(&dir.join("golden.safetensors")),
            arrays(&dir.join("grads.safetensors")),
        );
        let mut model = load(name, &device);
        attach(&mut model, &PeftConfig::Full(FullConfig::default()), 0).unwrap();

        let batch = golden_batch(&golden["input_ids"], &golden["labels"]);
        let (loss, grads) = step(&model, &mut MethodHook::of(&PeftConfig::default()), &batch);
        close_loss(name, loss, golden["loss"].values[0], 1e-5);
        assert_eq!(
            compare_gradients(&mut in_gradients(&model, grads), &expected, name),
            expected.len(),
            "{name}"
        );
    }
}

/// Compares the gradient of every tensor of the model and says how many there were.
fn compare_gradients(model: &mut Model, expected: &std::collections::BTreeMap<String, Array>, name: &str) -> usize {
    use ft_peft::{Adaptable, AnyTensor};
    let mut compared = 0;
    for mut module in model.target_modules() {
        for (leaf, tensor) in module.tensors() {
            let key = format!("grad.{}.{leaf}", module.path);
            let expected = expected.get(&key).unwrap_or_else(|| panic!("{name}: no {key}"));
            match tensor {
                AnyTensor::Vector(t) => close(&key, t.without_autodiff(), expected, 1e-4),
                AnyTensor::Matrix(t) => close(&key, t.without_autodiff(), &expected.clone().flat(), 1e-4),
            }
            compared += 1;
        }
    }
    compared
}

#[test]
fn both_spellings_of_the_config_mean_the_same() {
    for name in FAMILIES {
        let dir = fixture("families").join(name);
        let v5 = ModelConfig::from_dir(&dir).unwrap();
        let path = dir.join("config_v4.json");
        let v4 = ModelConfig::from_json(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
        assert_eq!(v5.without_source(), v4.without_source(), "{name}");
    }
}

#[test]
fn a_saved_model_is_the_same_model_however_it_is_split() {
    for name in FAMILIES {
        let golden = arrays(&fixture("families").join(name).join("golden.safetensors"));
        let model = load(name, &Device::flex());
        for shard_bytes in [usize::MAX, 9_000] {
            let dir = tempfile::tempdir().unwrap();
            model.save_sharded(dir.path(), LoadDtype::Auto, shard_bytes).unwrap();
            let whole = dir.path().join("model.safetensors").exists();
            assert_eq!(whole, shard_bytes == usize::MAX, "{name}");
            let again = Model::load(dir.path(), LoadDtype::Auto, &Device::flex()).unwrap();
            close(
                name,
                logits(&again, &golden["input_ids"], &Rows::Right),
                &golden["logits"],
                TOLERANCE,
            );
        }
    }
}

/// Through a table that is the head too, adapted or not, in training and in evaluation: the same bound.
#[test]
fn bounded_logits_come_of_every_kind_of_head() {
    let folder = fixture("families/gemma2");
    let golden = arrays(&folder.join("golden.safetensors"));
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let tied = text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert_ne!(tied, text);
    for text in [&text, &tied] {
        let config = ModelConfig::from_json(text, "config.json".as_ref()).unwrap();
        for (targets, rows) in [("lm_head", vec![]), ("o_proj", vec![]), ("o_proj", vec![3u32, 7, 90])] {
            let device = Device::flex().autodiff();
            let load = || Model::load_configured(config.clone(), &folder, LoadDtype::F32, None, None, &device).unwrap();
            let mut model = load();
            let lora = serde_json::json!({ "method": "lora", "rank": 2, "targets": [targets], "trainable_token_indices": rows });
            let lora: PeftConfig = serde_json::from_value(lora).unwrap();
            attach(&mut model, &lora, 3).unwrap();
            crate::methods_laws::disturb(&mut model);
            let hidden = model.forward(golden["input_ids"].ids(&device), &Rows::Right, None, &Pass::eval());
            let flat = hidden.clone().reshape([48, 32]);
            let targets = golden["input_ids"].ids(&device).reshape([48]);
            let logits = model.logits(hidden);
            let largest = logits.clone().abs().max().into_scalar::<f32>();
            assert!(largest > 2.0 && largest < 8.0, "{largest}");
            let log_probs = burn::tensor::activation::log_softmax(logits.reshape([48, 96]), 1);
            let want = log_probs.clone().gather(1, targets.clone().unsqueeze_dim(1)).neg();
            let sums = [model.token_nll(flat.clone(), targets.clone()).sum(), want.clone().sum()];
            let [got, want] = sums.map(|sum| f64::from(sum.into_scalar::<f32>()));
            assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
            let smooth =
                |x: f64| want * (1.0 - x) - x * f64::from(log_probs.clone().mean_dim(1).sum().into_scalar::<f32>());
            for smoothing in [0.0, 0.1] {
                let loss = model.nll_sum(flat.clone(), targets.clone(), smoothing);
                let got = f64::from(loss.into_scalar::<f32>());
                assert!((got - smooth(smoothing)).abs() < 1e-5 * want, "{smoothing}: {got}");
            }
        }
    }
}

#[test]
fn every_misfit_of_a_checkpoint_is_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("families/llama");
    std::fs::copy(source.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let config = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    let config = config.replace("\"vocab_size\": 96", "\"vocab_size\": 97");
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let error = Model::load(dir.path(), LoadDtype::F32, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(error.contains("model.layers.2.mlp.up_proj.weight: missing"), "{error}");
    assert!(
        error.contains("lm_head.weight: [97, 32] expected, found [96, 32]"),
        "{error}"
    );

    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let config = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let error = Model::load(dir.path(), LoadDtype::F32, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.layers.1.mlp.up_proj.weight: unexpected"),
        "{error}"
    );
}

#[test]
fn a_tied_checkpoint_may_hold_the_shared_table_as_the_head_alone() {
    for (name, table) in [
        ("qwen3", "model.embed_tokens.weight"),
        ("gpt2", "transformer.wte.weight"),
    ] {
        let (source, dir) = (fixture("families").join(name), tempfile::tempdir().unwrap());
        std::fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
        let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let renamed = file
            .iter()
            .map(|(n, view)| (if n == table { "lm_head.weight" } else { n }, view));
        safetensors::serialize_to_file(renamed, None, &dir.path().join("model.safetensors")).unwrap();
        let golden = arrays(&source.join("golden.safetensors"));
        let model = Model::load(dir.path(), LoadDtype::F32, &Device::flex()).unwrap();
        close(
            name,
            logits(&model, &golden["input_ids"], &Rows::Right),
            &golden["logits"],
            TOLERANCE,
        );
    }
}

/// The text of a model that also sees: its tensors under longer names beside those of a tower, its configuration in `text_config`.
#[test]
fn the_language_model_of_a_vision_model_is_taken_out() {
    let (source, dir) = (fixture("families/gemma3"), tempfile::tempdir().unwrap());
    let golden = arrays(&source.join("golden.safetensors"));
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let text = std::fs::read_to_string(source.join("config.json")).unwrap();
    let mut text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let stop = text["eos_token_id"].take();
    text.as_object_mut()
        .unwrap()
        .retain(|key, value| key != "architectures" && !value.is_null());
    let whole = serde_json::json!({
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text,
        "eos_token_id": stop, "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8},
    });
    std::fs::write(dir.path().join("config.json"), whole.to_string()).unwrap();
    for prefix in ["language_model.model.", "model.language_model."] {
        let head = if prefix.starts_with("model") {
            "lm_head."
        } else {
            "language_model.lm_head."
        };
        let long = |name: &str| match name.strip_prefix("model.") {
            Some(rest) => format!("{prefix}{rest}"),
            None => name.replace("lm_head.", head),
        };
        let tower = file.tensor("model.norm.weight").unwrap();
        let tensors = file.iter().map(|(name, view)| (long(name), view));
        let tensors = tensors.chain([("vision_tower.norm.weight".to_owned(), tower)]);
        safetensors::serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
        let model = Model::load(dir.path(), LoadDtype::F32, &Device::flex()).unwrap();
        close(
            prefix,
            logits(&model, &golden["input_ids"], &Rows::Right),
            &golden["logits"],
            TOLERANCE,
        );
        let checkpoint = ft_model::Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.left_out(), ["vision_tower.norm.weight"]);
        let alone = tempfile::tempdir().unwrap();
        model.save(alone.path(), LoadDtype::F32).unwrap();
        let (again, own) = (
            ModelConfig::from_dir(alone.path()).unwrap(),
            ModelConfig::from_dir(&source).unwrap(),
        );
        assert_eq!(again.without_source(), own.without_source());
        let written = std::fs::read_to_string(alone.path().join("config.json")).unwrap();
        assert!(
            written.contains("Gemma3ForCausalLM") && !written.contains("vision"),
            "{written}"
        );
    }
}

#[test]
fn hostile_checkpoints_are_errors() {
    let source = fixture("families/llama");
    let whole = std::fs::read(source.join("model.safetensors")).unwrap();
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut scrambled = whole.clone();
    scrambled[8..40].fill(0xff);
    for bytes in [
        &whole[..0],
        &whole[..5],
        &whole[..whole.len() - 100],
        &lying,
        &scrambled,
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let error = Model::load(dir.path(), LoadDtype::F32, &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    for config in [
        "",
        "[]",
        "{",
        "{}",
        r#"{"model_type": "mamba"}"#,
        r#"{"model_type": "llama", "hidden_size": -3}"#,
        r#"{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 0, "num_hidden_layers": 1, "vocab_size": 9, "intermediate_size": 4}"#,
    ] {
        let error = ModelConfig::from_json(config, "some/config.json".as_ref())
            .unwrap_err()
            .to_string();
        assert!(error.contains("some/config.json"), "{error}");
    }
}
