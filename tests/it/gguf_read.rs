//! GGUF files as models: blocks of every type, files of every family, and what comes back of what was exported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_data::Tokenizer;
use ft_gguf::{Dtype, File, FileType, Metadata, TensorInfo};
use ft_model::gguf::{GgufSource, write_model};
use ft_model::{Checkpoint, LoadDtype, Model, ModelConfig, Rows};
use ft_peft::Pass;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

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

/// Texts of all kinds of characters, spaces and special tokens.
fn texts(special: &[String]) -> Vec<String> {
    let pieces = [
        "the",
        "The quick brown fox",
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\t",
        "don't",
        "WE'RE",
        "1234567",
        "3.14",
        "naïve café",
        "北京",
        "🙂",
        "x²",
        "e\u{301}",
        "\u{a0}",
        "a_b",
        "{\"k\": [1, 2]}",
        "...",
        "!?",
        "Ω",
        "д",
        "ñ",
        "#include <x>",
        "\r\n",
    ];
    let mut state = 1u64;
    let mut next = |bound: usize| {
        state = ft_seed::mix(state);
        (state % bound as u64) as usize
    };
    let mut texts = vec![String::new()];
    for _ in 0..300 {
        let count = 1 + next(8);
        let piece = |next: &mut dyn FnMut(usize) -> usize| match next(8) {
            0 if !special.is_empty() => special[next(special.len())].clone(),
            1 => " ".into(),
            _ => pieces[next(pieces.len())].to_string(),
        };
        texts.push((0..count).map(|_| piece(&mut next)).collect());
    }
    texts
}

/// The parts of a committed tokenizer, changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Tokenizer {
    let folder = fixture("tokenizers").join(name);
    let read = |file: &str| std::fs::read(folder.join(file)).ok();
    let mut json: Value = serde_json::from_slice(&read("tokenizer.json").unwrap()).unwrap();
    change(&mut json);
    let json = serde_json::to_vec(&json).unwrap();
    let others = [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config.json",
        "generation_config.json",
        "chat_template.jinja",
    ]
    .map(|file| (file, read(file)));
    let others: Vec<(&str, Vec<u8>)> = others
        .into_iter()
        .filter_map(|(file, bytes)| Some((file, bytes?)))
        .collect();
    let mut files: Vec<(&str, &[u8])> = others.iter().map(|(file, bytes)| (*file, bytes.as_slice())).collect();
    files.push(("tokenizer.json", &json));
    Tokenizer::from_memory(&files).unwrap()
}

/// Byte-level BPE with splitting rules that llama.cpp has.
pub fn byte_level(pre: &str) -> Tokenizer {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let sequence = |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(regex)]});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let (rules, ignores) = match pre {
        "gpt-2" => (bytes(true), false),
        "smollm" => (
            sequence(json!({"type": "Digits", "individual_digits": true}), true),
            false,
        ),
        "llama-bpe" => (sequence(split(LLAMA3), false), true),
        "dbrx" => (sequence(split(LLAMA3), false), false),
        "qwen2" => (sequence(split(QWEN2), false), false),
        _ => (sequence(split(TEKKEN), false), true),
    };
    changed("chatml", |json| {
        json["pre_tokenizer"] = rules;
        json["model"]["ignore_merges"] = ignores.into();
        if pre != "qwen2" {
            json["normalizer"] = Value::Null;
        }
    })
}

/// SentencePiece's BPE, every way to make a token in the list, as transformers writes it.
fn sentencepiece(prefix: bool) -> Tokenizer {
    changed("llama", |json| {
        let vocab = json["model"]["vocab"].as_object().unwrap().clone();
        let merges = json["model"]["merges"].as_array().unwrap();
        let made = merges.iter().map(|pair| match pair {
            Value::String(pair) => pair.replacen(' ', "", 1),
            pair => format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        });
        let mut tokens: Vec<String> = Vec::new();
        made.for_each(|token| tokens.extend((!tokens.contains(&token)).then_some(token)));
        let ways = |token: &String| -> Vec<Value> {
            let cuts: Vec<usize> = token.char_indices().skip(1).map(|(at, _)| at).collect();
            let pairs = cuts.into_iter().rev().map(|at| token.split_at(at));
            let known = pairs.filter(|(a, b)| vocab.contains_key(*a) && vocab.contains_key(*b));
            known.map(|(a, b)| json!([a, b])).collect()
        };
        json["model"]["merges"] = tokens.iter().flat_map(ways).collect();
        if !prefix {
            json["normalizer"] = json["normalizer"]["normalizers"][1].take();
            let steps = json["decoder"]["decoders"].as_array_mut().unwrap();
            steps.retain(|step| step["type"] != "Strip");
        }
    })
}

#[test]
fn tokenizers_come_back_with_the_same_ids() {
    let byte_levels = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken"];
    let all = byte_levels.map(|pre| (pre, byte_level(pre)));
    let spaces = [("a space before", true), ("none", false)].map(|(name, prefix)| (name, sentencepiece(prefix)));
    for (name, original) in all.into_iter().chain(spaces) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.gguf");
        let metadata = original.gguf(original.vocab_size() + 3).unwrap();
        if byte_levels.contains(&name) {
            assert_eq!(metadata.get("tokenizer.ggml.pre"), Some(&name.into()));
        }
        ft_gguf::write(&path, &metadata, &[], |_| Ok::<_, std::io::Error>(Vec::new())).unwrap();
        let again = Tokenizer::from_dir(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again.vocab_size(), original.vocab_size(), "{name}");
        let roles = |t: &Tokenizer| (t.bos_id(), t.eos_id(), t.pad_id());
        assert_eq!(roles(&again), roles(&original), "{name}");
        assert!(
            original.eos_ids().iter().take(2).all(|id| again.eos_ids().contains(id)),
            "{name}"
        );
        let ids = 0..original.vocab_size() as u32;
        let special: Vec<String> = ids
            .clone()
            .filter(|id| original.is_special(*id))
            .filter_map(|id| original.id_to_token(id))
            .collect();
        assert!(
            ids.clone().all(|id| original.id_to_token(id) == again.id_to_token(id)),
            "{name}"
        );
        let mut seen = 0;
        for text in texts(&special) {
            for add_special in [false, true] {
                let (expected, found) = (original.encode(&text, add_special), again.encode(&text, add_special));
                assert_eq!(found.unwrap(), expected.unwrap(), "{name}: {text:?}");
            }
            let ids = original.encode(&text, true).unwrap();
            seen += ids.len();
            for skip in [false, true] {
                assert_eq!(
                    again.decode(&ids, skip),
                    original.decode(&ids, skip),
                    "{name}: {text:?}"
                );
            }
        }
        assert!(seen > 1000);
        let template = |t: &Tokenizer| t.chat_template().map(|template| template.source().to_string());
        assert_eq!(template(&again), template(&original), "{name}");

        // What a run saves beside an adapter is a tokenizer like any other.
        let saved = dir.path().join("saved");
        again.copy_to(&saved).unwrap();
        let saved = Tokenizer::from_dir(&saved).unwrap();
        let text = "Two  words\n";
        assert_eq!(saved.encode(text, true).unwrap(), original.encode(text, true).unwrap());
        assert_eq!(template(&saved), template(&original));
    }
}

#[test]
fn tokenizers_that_are_not_read_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gguf");
    let original = byte_level("smollm");
    let with = |key: &str, value: ft_gguf::Value| {
        let mut metadata = original.gguf(original.vocab_size()).unwrap();
        metadata.put(key, value);
        ft_gguf::write(&path, &metadata, &[], |_| Ok::<_, std::io::Error>(Vec::new())).unwrap();
        Tokenizer::from_dir(&path).unwrap_err().to_string()
    };
    let error = with("tokenizer.ggml.model", "bert".into());
    assert!(
        error.contains("t.gguf") && error.contains("tokenizer.ggml.model: \"bert\""),
        "{error}"
    );
    let error = with("tokenizer.ggml.pre", "poro-chat".into());
    assert!(
        error.contains("tokenizer.ggml.pre: \"poro-chat\" is not read; gpt-2"),
        "{error}"
    );
    let error = with("tokenizer.ggml.merges", ft_gguf::Value::Texts(vec!["ab".into()]));
    assert!(error.contains("entry 0, \"ab\", is no pair"), "{error}");
    let error = with("tokenizer.ggml.token_type", ft_gguf::Value::Ints(vec![1]));
    assert!(error.contains("tokenizer.ggml.token_type"), "{error}");
    let error = with("tokenizer.ggml.tokens", ft_gguf::Value::Texts(Vec::new()));
    assert!(error.contains("tokenizer.ggml.tokens: missing"), "{error}");
}
