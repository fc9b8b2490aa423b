//! GGUF files as models: blocks of every type, files of every family, and what comes back of what was exported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_gguf::{Dtype, File, FileType, Metadata, TensorInfo};
use ft_model::gguf::{GgufSource, write_model};
use ft_model::{Checkpoint, LoadDtype, Model, ModelConfig, Rows};
use ft_peft::Pass;
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use crate::support::{Array, arrays, fixture};

fn logits(model: &Model, ids: &[i32]) -> Vec<f32> {
    let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
    let ids = Tensor::<2, Int>::from_data(data, &model.device());
    let logits = model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()));
    logits.into_data().convert::<f32>().try_into_vec().unwrap()
}

fn golden_ids(family: &str) -> Vec<i32> {
    let golden = arrays(&fixture("families").join(family).join("golden.safetensors"));
    golden["input_ids"].values[..24].iter().map(|id| *id as i32).collect()
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn load(path: &Path, dtype: LoadDtype) -> Model {
    let model = Model::load(path, dtype, &Device::flex()).unwrap_or_else(|e| panic!("{e}"));
    let compute = model.suited_compute(true);
    model.computing_in(compute)
}

/// A file with one tensor whose bytes are given: the writer has no blocks of all types.
fn of_blocks(dir: &Path, number: u32, numbers: usize, bytes: &[u8]) -> PathBuf {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(b"x");
    file.extend(1u32.to_le_bytes());
    file.extend((numbers as u64).to_le_bytes());
    file.extend(number.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(bytes);
    let path = dir.join("x.gguf");
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn blocks_of_every_type_are_what_the_gguf_package_makes_of_them() {
    let numbers: BTreeMap<&str, u32> = [
        ("F32", 0),
        ("F16", 1),
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q5_0", 6),
        ("Q5_1", 7),
        ("Q8_0", 8),
        ("Q2_K", 10),
        ("Q3_K", 11),
        ("Q4_K", 12),
        ("Q5_K", 13),
        ("Q6_K", 14),
        ("BF16", 30),
    ]
    .into();
    let golden = std::fs::read(fixture("gguf/dequantize.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, number) in numbers {
        let blocks = golden.tensor(&format!("{name}.blocks")).unwrap();
        let values = golden.tensor(&format!("{name}.values")).unwrap();
        let expected: Vec<u32> = values
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect();
        let path = of_blocks(dir.path(), number, expected.len(), blocks.data());
        let file = File::open(&path).unwrap();
        let found = file.values(&file.tensors()[0]);
        let found: Vec<u32> = found.iter().map(|value| (value + 0.0).to_bits()).collect();
        let expected: Vec<u32> = expected
            .iter()
            .map(|bits| (f32::from_bits(*bits) + 0.0).to_bits())
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

fn exported(family: &str, file_type: FileType, dir: &Path) -> PathBuf {
    let out = dir.join("model.gguf");
    let base = fixture("families").join(family);
    let source = GgufSource {
        dir: &base,
        quant: None,
        adapter: None,
        tokenizer: Metadata::default(),
    };
    write_model(&source, file_type, &out).unwrap();
    out
}

#[test]
fn what_was_exported_comes_back_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    for family in [
        "llama",
        "llama3_rope",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3_yarn",
        "gpt2",
        "gpt2_hub",
    ] {
        let path = exported(family, FileType::All(Dtype::F32), dir.path());
        let folder = fixture("families").join(family);
        // llama.cpp has no windows for a Mistral: the texts are no longer than one.
        let ids = &golden_ids(family.trim_end_matches("_hub"))[..if family == "mistral" { 6 } else { 24 }];
        let (found, expected) = (load(&path, LoadDtype::F32), load(&folder, LoadDtype::F32));
        assert_eq!(logits(&found, ids), logits(&expected, ids), "{family}");
        let config = found.config();
        assert_eq!(config.rope, expected.config().rope, "{family}");
        assert_eq!(
            config.tie_word_embeddings,
            expected.config().tie_word_embeddings,
            "{family}"
        );
    }
    let path = exported("qwen2_bf16", FileType::All(Dtype::Bf16), dir.path());
    let ids = golden_ids("qwen2_bf16");
    let folder = fixture("families/qwen2_bf16");
    let (found, expected) = (load(&path, LoadDtype::Auto), load(&folder, LoadDtype::Auto));
    assert_eq!(logits(&found, &ids), logits(&expected, &ids));
}

#[test]
fn quantized_files_are_as_near_as_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let types = [
        (FileType::All(Dtype::F16), 4e-3),
        (FileType::All(Dtype::Q8_0), 6e-2),
        // Rows of 32: blocks of 256 become q5_0 and q8_0.
        (FileType::Q4KM, 0.6),
        (FileType::Q5KM, 0.4),
    ];
    for family in ["llama", "qwen2", "qwen3", "gpt2"] {
        let ids = golden_ids(family);
        let expected = logits(&load(&fixture("families").join(family), LoadDtype::F32), &ids);
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (file_type, share) in types {
            let path = exported(family, file_type, dir.path());
            let found = logits(&load(&path, LoadDtype::F32), &ids);
            let difference = largest_difference(&found, &expected) / largest;
            assert!(
                difference > 0.0 && difference < share,
                "{family} {file_type:?}: {difference}"
            );
            let rounded = logits(&load(&path, LoadDtype::Auto), &ids);
            let difference = largest_difference(&rounded, &found) / largest;
            assert!(difference < 5e-2, "{family} {file_type:?} in 16 bits: {difference}");
        }
    }
}

/// A tensor as `read_families.json` says that it is made of the checkpoint's.
fn made(weights: &BTreeMap<String, Array>, recipe: &Value) -> (Vec<usize>, Vec<f32>) {
    let sources = recipe[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| &weights[name.as_str().unwrap()]);
    let sources: Vec<&Array> = sources.collect();
    let (mut shape, mut values) = (sources[0].shape.clone(), sources[0].values.clone());
    match recipe[1].as_str().unwrap() {
        "same" => {}
        "vector" => shape = vec![values.len()],
        "from_one" => values.iter_mut().for_each(|value| *value += 1.0),
        "stack" => {
            shape.insert(0, sources.len());
            values = sources.iter().flat_map(|part| part.values.clone()).collect();
        }
        "pairs" => {
            let heads = recipe[2].as_u64().unwrap() as usize;
            let (columns, head) = (shape[1], shape[0] / heads);
            let before = values.clone();
            for row in 0..shape[0] {
                let (start, i, j) = (row / head * head, row % head / 2, row % 2);
                let from = (start + i + j * (head / 2)) * columns;
                values[row * columns..(row + 1) * columns].copy_from_slice(&before[from..from + columns]);
            }
        }
        other => panic!("{other}"),
    }
    (shape, values.iter().map(|value| *value as f32).collect())
}

fn family_file(case: &Value, dir: &Path) -> PathBuf {
    let weights = arrays(
        &fixture("families")
            .join(case["family"].as_str().unwrap())
            .join("model.safetensors"),
    );
    let mut metadata = Metadata::default();
    metadata.put("general.architecture", case["architecture"].as_str().unwrap());
    for (key, value) in case["metadata"].as_object().unwrap() {
        match value {
            Value::String(text) => metadata.put(key.as_str(), text.as_str()),
            Value::Number(number) if number.is_f64() => metadata.put(key.as_str(), number.as_f64().unwrap() as f32),
            other => metadata.put(key.as_str(), other.as_u64().unwrap() as u32),
        }
    }
    let tensors = case["tensors"].as_object().unwrap().iter();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = tensors
        .map(|(name, recipe)| {
            let (shape, values) = made(&weights, recipe);
            (name.clone(), shape, values)
        })
        .collect();
    for which in ["long", "short"] {
        if let Some(factors) = case["changes"]["rope_parameters"][format!("{which}_factor")].as_array() {
            let factors: Vec<f32> = factors.iter().map(|v| v.as_f64().unwrap() as f32).collect();
            tensors.push((format!("rope_factors_{which}.weight"), vec![factors.len()], factors));
        }
    }
    let infos: Vec<TensorInfo> = tensors
        .iter()
        .map(|(name, shape, _)| TensorInfo::new(name, shape, Dtype::F32))
        .collect();
    let path = dir.join("family.gguf");
    ft_gguf::write(&path, &metadata, &infos, |i| {
        Ok::<_, std::io::Error>(tensors[i].2.clone())
    })
    .unwrap();
    path
}

#[test]
fn files_of_every_family_are_the_checkpoints_they_were_made_from() {
    let golden = std::fs::read_to_string(fixture("gguf/read_families.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let family = case["family"].as_str().unwrap();
        let folder = fixture("families").join(family);
        let changed = dir.path().join("changed");
        std::fs::create_dir_all(&changed).unwrap();
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
        config.extend(case["changes"].as_object().unwrap().clone());
        std::fs::write(changed.join("config.json"), Value::Object(config).to_string()).unwrap();
        std::fs::copy(folder.join("model.safetensors"), changed.join("model.safetensors")).unwrap();

        let path = family_file(&case, dir.path());
        let ids = golden_ids(family);
        let found = logits(&load(&path, LoadDtype::F32), &ids);
        let expected = logits(&load(&changed, LoadDtype::F32), &ids);
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let difference = largest_difference(&found, &expected) / largest;
        // One was added to Gemma's norms in f32.
        let allowed = if family == "gemma3" { 1e-5 } else { 0.0 };
        assert!(difference <= allowed, "{family}: {difference}");
        assert!(largest > 0.1, "{family}");
    }
}

#[test]
fn what_is_not_computed_is_refused_by_its_key() {
    let golden = std::fs::read_to_string(fixture("gguf/read_families.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&golden).unwrap();
    let case = cases.iter().find(|case| case["family"] == "olmo2").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = |key: &str, value: Value, architecture: &str| {
        let mut case = case.clone();
        case["architecture"] = architecture.into();
        case["metadata"][key] = value;
        let path = family_file(&case, dir.path());
        let error = ModelConfig::from_dir(&path).unwrap_err().to_string();
        assert!(error.contains("family.gguf: "), "{error}");
        error
    };
    let error = refused("olmo2.attention.sliding_window", 4096.into(), "olmo2");
    assert!(
        error.contains("olmo2.attention.sliding_window: a olmo2 model with it"),
        "{error}"
    );
    let error = refused("x", 1.into(), "mamba");
    assert!(
        error.contains("\"mamba\" is not read") && error.contains("llama, qwen2"),
        "{error}"
    );
    let error = refused("olmo2.attention.head_count", "many".into(), "olmo2");
    assert!(error.contains("olmo2.attention.head_count: a whole number"), "{error}");
    let error = refused("olmo2.rope.scaling.type", "longrope".into(), "olmo2");
    assert!(
        error.contains("rope.scaling.type") && error.contains("longrope"),
        "{error}"
    );
    let error = refused("split.count", 3.into(), "olmo2");
    assert!(error.contains("split.count") && error.contains("--merge"), "{error}");
    let error = refused("general.type", "adapter".into(), "olmo2");
    assert!(error.contains("general.type: \"adapter\""), "{error}");

    // A tensor that has no place, and one that is missing.
    let mut case = case.clone();
    let tensors = case["tensors"].as_object_mut().unwrap();
    let moved = tensors.remove("blk.1.attn_q.weight").unwrap();
    tensors.insert("blk.1.attn_extra.weight".into(), moved);
    let path = family_file(&case, dir.path());
    let error = Model::load(&path, LoadDtype::F32, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.layers.1.self_attn.q_proj.weight: missing")
            && error.contains("blk.1.attn_extra.weight: unexpected"),
        "{error}"
    );
}

#[test]
fn counts_and_types_are_those_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = exported("llama", FileType::All(Dtype::Q8_0), dir.path());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let bytes: usize = checkpoint.entries().map(|(_, entry)| entry.stored_bytes()).sum();
    let types: std::collections::BTreeSet<String> = checkpoint.entries().map(|(_, entry)| entry.type_name()).collect();
    assert_eq!(types, ["f16", "f32", "q8_0"].map(String::from).into());
    let whole = std::fs::metadata(&path).unwrap().len() as usize;
    assert!(bytes < whole && bytes > whole / 2, "{bytes} of {whole}");
    let numbers = |dir: &Path| ModelConfig::from_dir(dir).unwrap().num_parameters();
    assert_eq!(numbers(&path), numbers(&fixture("families/llama")));
}
