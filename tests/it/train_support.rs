//! A tiny base model, a tokenizer of whole words and a task to learn, written into a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use burn::tensor::Device;
use ft_train::checkpoint::read_tensors;
use ft_train::{Event, FitOptions, Outcome, Plan, Resume, RunConfig, fit};
use serde_json::{Value, json};

use crate::support::fixture;

/// Base model, data and run folders.
pub struct Workshop {
    pub dir: tempfile::TempDir,
}

/// The words of the tokenizer, after `<pad> <s> </s> <unk>`.
const WORDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "turn", "into", "=", ";"];

impl Workshop {
    pub fn new() -> Self {
        let workshop = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        write_base(&workshop.path("base"));
        write_jsonl(&workshop.path("train.jsonl"), 0..23);
        write_jsonl(&workshop.path("valid.jsonl"), 40..47);
        fs::write(workshop.path("run.toml"), CONFIG).unwrap();
        workshop
    }

    /// Puts a fixture's encoder into `folder`, with a tokenizer that writes `[CLS]` and `[SEP]` around texts.
    pub fn encoder(&self, folder: &str, fixture: &Path) {
        let dir = self.path(folder);
        fs::create_dir_all(&dir).unwrap();
        fs::remove_file(dir.join("generation_config.json")).ok();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(fixture.join(name), dir.join(name)).unwrap();
        }
        write_tokenizer(
            &dir,
            &["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"],
            json!({
                "type": "TemplateProcessing",
                "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                    { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                "special_tokens": {
                    "[CLS]": { "id": "[CLS]", "ids": [1], "tokens": ["[CLS]"] },
                    "[SEP]": { "id": "[SEP]", "ids": [2], "tokens": ["[SEP]"] }
                }
            }),
        );
        let config = json!({ "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
            "mask_token": "[MASK]" });
        fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration with `sets` on top, its run folder `out` in this workshop.
    pub fn config(&self, out: &str, sets: &[&str]) -> RunConfig {
        let mut sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        sets.push(format!("train.out={}", self.path(out).display()));
        RunConfig::load(&self.path("run.toml"), &sets).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn plan(&self, out: &str, sets: &[&str]) -> ft_train::Result<Plan> {
        Plan::resolve(self.config(out, sets), &Device::flex(), "cpu")
    }

    pub fn fit(&self, out: &str, sets: &[&str]) -> ft_train::Result<Outcome> {
        fit(self.plan(out, sets)?, FitOptions::default())
    }

    pub fn resume(&self, out: &str, sets: &[&str]) -> ft_train::Result<Outcome> {
        fit(
            self.plan(out, sets)?,
            FitOptions {
                resume: Some(Resume::Latest),
                ..FitOptions::default()
            },
        )
    }

    /// Runs until `step` is evaluated or its checkpoint written, and asks to stop then: the run ends there.
    pub fn fit_until(&self, out: &str, sets: &[&str], step: usize) -> Outcome {
        self.until(out, sets, step, None)
    }

    /// The same for a run that goes on from its newest checkpoint.
    pub fn resume_until(&self, out: &str, sets: &[&str], step: usize) -> Outcome {
        self.until(out, sets, step, Some(Resume::Latest))
    }

    fn until(&self, out: &str, sets: &[&str], step: usize, resume: Option<Resume>) -> Outcome {
        let mut options = FitOptions {
            resume,
            ..FitOptions::default()
        };
        let stop = options.stop.clone();
        options.on_event = Box::new(move |event| {
            if matches!(event, Event::Saved { step: at, .. } | Event::Evaluated { step: at, .. } if *at >= step) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        fit(self.plan(out, sets).unwrap_or_else(|e| panic!("{e}")), options).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn metrics(&self, out: &str) -> Vec<Value> {
        ft_train::read_metrics(&self.path(out).join("metrics.jsonl"))
    }

    /// `(step, loss, eval_loss)` of every line: what must not depend on when a run was stopped.
    pub fn curve(&self, out: &str) -> Vec<(u64, Option<f64>, Option<f64>)> {
        let line = |m: &Value| (m["step"].as_u64().unwrap(), m["loss"].as_f64(), m["eval_loss"].as_f64());
        self.metrics(out).iter().map(line).collect()
    }

    /// Name, size and hash of what holds numbers: the result in `final/`, and weights and moments of the last checkpoint.
    pub fn result(&self, out: &str, step: usize) -> Vec<(String, usize, u64)> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let out = self.path(out);
        let last = out.join(format!("checkpoints/step-{step}"));
        let results = ["adapter_model.safetensors", "adapter.safetensors", "model.safetensors"];
        // In `final/`, or in a folder of it for each task.
        let mut folders = vec![out.join("final")];
        folders.extend(fs::read_dir(&folders[0]).unwrap().map(|entry| entry.unwrap().path()));
        folders.sort();
        let in_final = folders.iter().flat_map(|folder| results.map(|name| folder.join(name)));
        let in_last = ["trainable.safetensors", "optimizer.safetensors"].map(|name| last.join(name));
        let files = in_final.chain(in_last).filter(|path| path.exists());
        let files: Vec<_> = files
            .map(|path| {
                let (bytes, mut hash) = (fs::read(&path).unwrap(), DefaultHasher::new());
                bytes.hash(&mut hash);
                (
                    path.file_name().unwrap().to_string_lossy().into_owned(),
                    bytes.len(),
                    hash.finish(),
                )
            })
            .collect();
        assert!(files.len() >= 3, "a result and two files of state");
        let moments = read_tensors(&last.join("optimizer.safetensors")).unwrap();
        assert!(
            moments.iter().any(|(name, _)| name.ends_with(".step")),
            "states are saved"
        );
        files
    }
}

const CONFIG: &str = r#"
[model]
path = "base"
[peft]
rank = 4
dropout = 0.1
[data]
train = "train.jsonl"
valid = "valid.jsonl"
format = "prompt-completion"
[optim]
lr = 2e-2
[schedule]
kind = "cosine"
warmup = 2
[train]
batch_size = 2
accumulation = 2
steps = 12
log_every = 1
eval_every = 4
save_every = 3
keep = 20
[eval]
samples = 2
[generate]
max_new_tokens = 4
"#;

/// The random Llama of the fixtures with a tokenizer beside it.
fn write_base(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(fixture("families/llama").join(name), dir.join(name)).unwrap();
    }
    write_tokenizer(dir, &["<pad>", "<s>", "</s>", "<unk>"], Value::Null);
    let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>" });
    fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// A tokenizer of whole words behind special tokens, the last of which stands for words that it does not know.
fn write_tokenizer(dir: &Path, specials: &[&str], post_processor: Value) {
    let added = specials.iter().enumerate().map(|(id, token)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let vocab: serde_json::Map<String, Value> = specials
        .iter()
        .chain(&WORDS)
        .enumerate()
        .map(|(id, word)| (word.to_string(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": post_processor, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": specials.last() }
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// "turn a b c into =" -> "c b a": reversing, with prompts of different lengths.
fn write_jsonl(path: &Path, numbers: std::ops::Range<usize>) {
    let lines = numbers.map(|n| {
        let letters: Vec<&str> = (0..2 + n % 4).map(|i| WORDS[(n * 7 + i * 3 + n / 5) % 8]).collect();
        let back: Vec<&str> = letters.iter().rev().copied().collect();
        json!({ "prompt": format!("turn {} into =", letters.join(" ")), "completion": back.join(" ") }).to_string()
            + "\n"
    });
    fs::write(path, lines.collect::<String>()).unwrap();
}
