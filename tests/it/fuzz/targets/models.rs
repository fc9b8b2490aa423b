//! Models and adapters: configuration and tensors.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor};
use ft_data::Tokenizer;
use ft_gguf::{Dtype, FileType};
use ft_model::gguf::{GgufSource, write_model};
use ft_model::{LoadDtype, Model, ModelConfig, Rows};
use ft_peft::{Pass, adapter};
use ft_seed::below;

use super::{Bench, Copy, folders, header_mutated, pick, read, words};
use crate::fuzz::mutate;
use crate::gguf_tokenizers::byte_level;
use crate::support::fixture;

/// Logits of a few tokens, of the shape that the configuration says.
fn forward(model: &Model) {
    let ids = Tensor::<2, Int>::from_ints([[0, 0, 0]], &model.device());
    let logits = model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()));
    assert_eq!(logits.dims(), [1, 3, model.config().vocab_size], "wrong success");
}

pub fn config() -> Bench {
    let seeds: Vec<Vec<u8>> = folders("families", "config.json")
        .iter()
        .map(|dir| read(&dir.join("config.json")))
        .collect();
    Box::new(move |rng| {
        let seed = pick(rng, &seeds);
        let text = String::from_utf8(mutate::json(rng, seed)).map_err(words)?;
        let path = Path::new("config.json");
        let config = ModelConfig::from_json(&text, path).map_err(words)?;
        let written = config.to_json("float32", config.tie_word_embeddings, None);
        let again = ModelConfig::from_json(&written, path).unwrap_or_else(|e| panic!("wrong success: {e}"));
        assert_eq!(again.num_parameters(), config.num_parameters(), "wrong success");
        // Larger ones are a matter of memory, which loading compares with the file.
        if config.num_parameters() < 1 << 18 && config.max_position_embeddings < 1 << 16 {
            forward(&Model::init(&config, 0, &Device::flex()));
        }
        Ok(())
    })
}

/// Adapters made by PEFT and by AdapterHub's library, and the model that each is for.
fn adapters() -> Vec<(Copy, PathBuf)> {
    let peft = folders("peft", "adapter_config.json");
    let hub = folders("adapters", "adapter_config.json");
    let all = peft.into_iter().map(|dir| (dir, "peft/base"));
    let all = all.chain(hub.into_iter().map(|dir| (dir, "adapters/base")));
    let gpt2 = |dir: &Path| dir.to_string_lossy().contains("gpt2");
    let all = all.filter(|(dir, _)| !gpt2(dir));
    all.map(|(dir, base)| (Copy::of(&dir), fixture(base))).collect()
}

fn load_adapter(dir: &Path, base: &Path) -> Result<(), String> {
    let mut model = Model::load(base, LoadDtype::F32, &Device::flex()).unwrap();
    adapter::load(dir, &mut model).map_err(words)?;
    forward(&model);
    Ok(())
}

pub fn adapter_config() -> Bench {
    let adapters = adapters();
    Box::new(move |rng| {
        let (copy, base) = pick(rng, &adapters);
        let file = "adapter_config.json";
        let bytes = mutate::json(rng, &read(&copy.dir.path().join(file)));
        copy.with(file, &bytes, |dir| load_adapter(dir, base))
    })
}

pub fn adapter_weights() -> Bench {
    let mut adapters = adapters();
    adapters.retain(|(copy, _)| copy.dir.path().join("adapter_model.safetensors").is_file());
    Box::new(move |rng| {
        let (copy, base) = pick(rng, &adapters);
        let file = "adapter_model.safetensors";
        let bytes = header_mutated(rng, read(&copy.dir.path().join(file)));
        copy.with(file, &bytes, |dir| load_adapter(dir, base))
    })
}

fn checkpoint_bench(folders: Vec<PathBuf>) -> Bench {
    let copies: Vec<Copy> = folders.iter().map(|dir| Copy::of(dir)).collect();
    Box::new(move |rng| {
        let copy = pick(rng, &copies);
        let (index, single) = ("model.safetensors.index.json", "model.safetensors");
        let (file, bytes) = match below(rng, 4) {
            0 => (
                "config.json",
                mutate::json(rng, &read(&copy.dir.path().join("config.json"))),
            ),
            _ if copy.dir.path().join(index).is_file() => {
                (index, mutate::json(rng, &read(&copy.dir.path().join(index))))
            }
            _ => (single, header_mutated(rng, read(&copy.dir.path().join(single)))),
        };
        copy.with(file, &bytes, |dir| {
            let model = Model::load(dir, LoadDtype::F32, &Device::flex()).map_err(words)?;
            if model.config().max_position_embeddings < 1 << 16 {
                forward(&model);
            }
            Ok(())
        })
    })
}

pub fn weights() -> Bench {
    checkpoint_bench(folders("families", "config.json"))
}

pub fn quantized_weights() -> Bench {
    checkpoint_bench(folders("bnb/hf", "model.safetensors"))
}

pub fn gguf() -> Bench {
    let copies: Vec<Copy> = folders("families", "model.safetensors")
        .iter()
        .map(|dir| Copy::of(dir))
        .collect();
    Box::new(move |rng| {
        let copy = pick(rng, &copies);
        let (file, bytes) = match below(rng, 2) {
            0 => (
                "config.json",
                mutate::json(rng, &read(&copy.dir.path().join("config.json"))),
            ),
            _ => (
                "model.safetensors",
                header_mutated(rng, read(&copy.dir.path().join("model.safetensors"))),
            ),
        };
        let out = tempfile::tempdir().unwrap();
        copy.with(file, &bytes, |dir| {
            let source = GgufSource {
                dir,
                quant: None,
                adapter: None,
                tokenizer: ft_gguf::Metadata::default(),
            };
            let dtypes = [Dtype::F32, Dtype::F16, Dtype::Q8_0].map(FileType::All);
            let dtype = *pick(rng, &[dtypes.as_slice(), &[FileType::Q4KM, FileType::Q5KM]].concat());
            write_model(&source, dtype, &out.path().join("model.gguf")).map_err(words)
        })
    })
}

/// Files that hold a model and its tokenizer, read as a checkpoint.
pub fn gguf_model() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = byte_level("smollm");
    let seed = |(number, (family, file_type)): (usize, (&str, FileType))| {
        let path = dir.path().join(format!("{number}.gguf"));
        let base = fixture("families").join(family);
        let source = GgufSource {
            dir: &base,
            quant: None,
            adapter: None,
            tokenizer: tokenizer.gguf(tokenizer.vocab_size()).unwrap(),
        };
        write_model(&source, file_type, &path).unwrap();
        read(&path)
    };
    let kinds = [
        ("llama", FileType::All(Dtype::Q8_0)),
        ("llama3_rope", FileType::All(Dtype::F32)),
        ("qwen2", FileType::Q4KM),
        ("gpt2", FileType::All(Dtype::F16)),
    ];
    let seeds: Vec<Vec<u8>> = kinds.into_iter().enumerate().map(seed).collect();
    Box::new(move |rng| {
        let seed = pick(rng, &seeds);
        // Half of the file is its header: keys, tokens and what tensors are.
        let bytes = mutate::bytes(rng, seed.clone(), seed.len() / 2);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        let read = Tokenizer::from_dir(&path).map(|tokenizer| tokenizer.encode("A text", true));
        let model = Model::load(&path, LoadDtype::F32, &Device::flex()).map_err(words)?;
        if model.config().max_position_embeddings < 1 << 16 {
            forward(&model);
        }
        read.map_err(words)?.map_err(words).map(drop)
    })
}
