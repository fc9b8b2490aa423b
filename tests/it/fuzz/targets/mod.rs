//! Every kind of file that ft reads, with what reading it means.

mod cache;
mod files;
mod models;
mod runs;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use ft_data::ChaCha8Rng;
use ft_seed::below;
use tempfile::TempDir;

use super::mutate;
use crate::support::fixture;

/// A case: draws an input and reads it. An error is a refusal.
pub type Bench = Box<dyn Fn(&mut ChaCha8Rng) -> Result<(), String>>;

/// A kind of file.
pub struct Target {
    pub name: &'static str,
    /// Reads the seeds, once per process.
    pub prepare: fn() -> Bench,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "config",
        prepare: models::config,
    },
    Target {
        name: "adapter_config",
        prepare: models::adapter_config,
    },
    Target {
        name: "adapter_weights",
        prepare: models::adapter_weights,
    },
    Target {
        name: "weights",
        prepare: models::weights,
    },
    Target {
        name: "quantized_weights",
        prepare: models::quantized_weights,
    },
    Target {
        name: "tokenizer",
        prepare: texts::tokenizer,
    },
    Target {
        name: "chat_template",
        prepare: texts::chat_template,
    },
    Target {
        name: "run_config",
        prepare: texts::run_config,
    },
    Target {
        name: "data",
        prepare: texts::data,
    },
    Target {
        name: "compressed",
        prepare: files::compressed,
    },
    Target {
        name: "file_names",
        prepare: files::names,
    },
    Target {
        name: "token_cache",
        prepare: cache::token_cache,
    },
    Target {
        name: "named_template",
        prepare: texts::named_template,
    },
    #[cfg(feature = "parquet")]
    Target {
        name: "parquet",
        prepare: files::parquet,
    },
    #[cfg(feature = "parquet")]
    Target {
        name: "arrow",
        prepare: files::arrow,
    },
    Target {
        name: "gguf",
        prepare: models::gguf,
    },
    Target {
        name: "gguf_model",
        prepare: models::gguf_model,
    },
    Target {
        name: "training_checkpoint",
        prepare: runs::training_checkpoint,
    },
    Target {
        name: "trainer_state",
        prepare: runs::trainer_state,
    },
    Target {
        name: "generation_config",
        prepare: texts::generation_config,
    },
];

fn pick<'a, T>(rng: &mut ChaCha8Rng, items: &'a [T]) -> &'a T {
    &items[below(rng, items.len())]
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Folders in `under` that hold `file`.
fn folders(under: &str, file: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture(under)).unwrap().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|dir| dir.join(file).is_file())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{under} has seeds");
    found
}

/// A folder with the files of another, which a case overwrites one of and puts back.
struct Copy {
    dir: TempDir,
}

impl Copy {
    fn of(folder: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let from = entry.path();
            if from.is_file() && !from.ends_with("golden.safetensors") && !from.ends_with("grads.safetensors") {
                fs::copy(&from, dir.path().join(entry.file_name())).unwrap();
            }
        }
        Self { dir }
    }

    /// What `act` says while `file` holds `bytes`.
    fn with<T>(&self, file: &str, bytes: &[u8], act: impl FnOnce(&Path) -> T) -> T {
        let path = self.dir.path().join(file);
        let before = fs::read(&path).ok();
        fs::write(&path, bytes).unwrap();
        let outcome = act(self.dir.path());
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        outcome
    }
}

/// A safetensors file with damage that is mostly in its header.
fn header_mutated(rng: &mut ChaCha8Rng, bytes: Vec<u8>) -> Vec<u8> {
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    if below(rng, 2) == 0 {
        return mutate::bytes(rng, bytes, head);
    }
    let header = mutate::json(rng, &bytes[8..head]);
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_slice(), &bytes[head..]].concat()
}
