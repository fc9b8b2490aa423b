//! Devices that run out of memory, played on the CPU.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use serde_json::json;

use super::*;
use crate::checkpoint::{Checkpoints, read_state, read_tensors};
use crate::{Ending, FitOptions, Outcome, Resume, RunConfig, fit};

thread_local! {
    /// A forward pass of more examples fails on this thread.
    static HOLDS: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Fails as a read from a CubeCL device does that could not allocate.
pub(crate) fn refuse(batch: &ft_data::Batch) {
    if batch.examples() > HOLDS.get() {
        let reason = "Error while reading data: WithContext { reason: \"An IO error happened\\nCaused by:\\n  out of device \
                      memory allocating 4294967296 bytes\" }";
        // As `panic!`, without the lines of the hook.
        resume_unwind(Box::new(reason.to_owned()));
    }
}

struct Bench(tempfile::TempDir);

const CONFIG: &str = "[model]\npath = 'base'\ninit = true\n[peft]\nmethod = 'full'\n[data]\ntrain = 'train.txt'\nformat = 'text'\npack = false\n\
    [optim]\nlr = 1e-2\n[train]\nsteps = 9\nsave_every = 3\nlog_every = 1\nkeep = 9\n[eval]\nsamples = 0\n";

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let base = bench.path("base");
        fs::create_dir(&base).unwrap();
        let model = json!({ "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": true, "eos_token_id": 0 });
        fs::write(base.join("config.json"), model.to_string()).unwrap();
        let words = ["<s>", "a", "b", "c", "d", "e", "f", "g"].iter().enumerate();
        let vocab: serde_json::Map<_, _> = words.map(|(id, word)| (word.to_string(), json!(id))).collect();
        let special = json!({ "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true });
        let tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special],
            "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "a" } });
        fs::write(base.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let line = |n: usize| {
            let words = (0..3 + n % 5).map(|i| ["a", "b", "c", "d", "e", "f", "g"][(n * 3 + i * 2) % 7]);
            words.collect::<Vec<_>>().join(" ") + "\n"
        };
        fs::write(bench.path("train.txt"), (0..29).map(line).collect::<String>()).unwrap();
        fs::write(bench.path("run.toml"), CONFIG).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plan(&self, out: &str, cut: [usize; 2]) -> Plan {
        let [size, accumulation] = cut;
        let sets = [
            format!("train.out={}", self.path(out).display()),
            format!("train.batch_size={size}"),
            format!("train.accumulation={accumulation}"),
        ];
        let config = RunConfig::load(&self.path("run.toml"), &sets).unwrap();
        Plan::resolve(config, &Device::flex(), "cpu").unwrap()
    }

    /// A run, and what it warned of; `saved` is told the step of every checkpoint and may raise the stop.
    fn run(
        &self,
        (out, cut): (&str, [usize; 2]),
        resume: Option<Resume>,
        mut saved: impl FnMut(usize, &AtomicBool) + Send + 'static,
    ) -> (Result<Outcome>, Vec<String>) {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let (heard, stop) = (told.clone(), Arc::<AtomicBool>::default());
        let options = FitOptions {
            resume,
            stop: stop.clone(),
            on_event: Box::new(move |event| match event {
                Event::Warning(text) if text.contains("forward pass") => heard.lock().unwrap().push(text.clone()),
                Event::Saved { step, .. } => saved(*step, &stop),
                _ => {}
            }),
            ..FitOptions::default()
        };
        let outcome = fit(self.plan(out, cut), options);
        HOLDS.set(usize::MAX);
        (outcome, std::mem::take(&mut told.lock().unwrap()))
    }

    fn checkpoint(&self, out: &str, step: usize) -> PathBuf {
        Checkpoints::of(&self.path(out)).path(step)
    }

    fn weights(&self, out: &str) -> BTreeMap<String, Vec<f32>> {
        let path = self.checkpoint(out, 9).join("trainable.safetensors");
        let tensors = read_tensors(&path).unwrap().into_iter();
        tensors.map(|(name, data)| (name, data.try_to_vec().unwrap())).collect()
    }

    /// The largest difference between the weights that two runs end with.
    fn apart(&self, one: &str, other: &str) -> f32 {
        let (one, other) = (self.weights(one), self.weights(other));
        assert!(one.keys().eq(other.keys()));
        let pairs = one.values().flatten().zip(other.values().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }
}

fn micro_batch(checkpoint: &Path) -> Option<usize> {
    read_state(checkpoint).unwrap().micro_batch
}

fn nothing(_: usize, _: &AtomicBool) {}

#[test]
fn only_what_tells_of_memory_is_taken_for_it() {
    let failed = |text: &str| attempt(|| Err::<(), _>(Error::Device(text.to_owned())));
    let panicked = |text: &'static str| attempt(|| -> Result<()> { resume_unwind(Box::new(text)) });
    for text in [
        "An IO error happened\nCaused by:\n  out of device memory allocating 1024 bytes",
        "can't allocate buffer of size: 1099511627776",
        "An out-of-memory error happened during launch",
        "Can't allocate 64 bytes: every page size the memory tracks still holds live allocations",
        "wgpu error: Out of Memory",
    ] {
        assert!(
            failed(text).unwrap().is_none() && panicked(text).unwrap().is_none(),
            "{text}"
        );
    }
    assert!(attempt(|| Ok(7)).unwrap() == Some(7));
    assert!(matches!(failed("The device is poisoned"), Err(Error::Device(_))));
    assert!(matches!(
        attempt(|| Err::<(), _>(Error::Training("out of memory".into()))),
        Err(Error::Training(_))
    ));
    let bug = catch_unwind(|| panicked("index out of bounds")).unwrap_err();
    assert_eq!(text_of(bug.as_ref()), Some("index out of bounds"));
}

#[test]
fn memory_that_runs_out_at_once_gives_the_run_with_the_smaller_batch_to_the_bit() {
    let bench = Bench::new();
    HOLDS.set(2);
    let (outcome, told) = bench.run(("large", [8, 1]), None, nothing);
    let outcome = outcome.unwrap();
    assert_eq!(
        (outcome.ending, outcome.steps, outcome.micro_batch),
        (Ending::Finished, 9, Some(2))
    );
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("step 1: out of memory with 8 samples in a forward pass; from here on 4"),
        "{told:?}"
    );
    let (small, told) = bench.run(("small", [2, 4]), None, nothing);
    assert_eq!((small.unwrap().micro_batch, told.len()), (None, 0));
    assert_eq!(bench.apart("large", "small"), 0.0);

    let lines = crate::read_metrics(&bench.path("large/metrics.jsonl"));
    assert!(
        lines
            .iter()
            .filter(|l| l["loss"].is_number())
            .all(|l| l["micro_batch"] == 2),
        "{lines:?}"
    );
    let report = fs::read_to_string(bench.path("large/report.html")).unwrap();
    assert!(report.contains("of memory with 8 samples in a forward pass; 2 at the end"));
}

#[test]
fn memory_that_runs_out_later_costs_no_step_and_the_size_outlives_a_resume() {
    let bench = Bench::new();
    let shrink = |step: usize, _: &AtomicBool| {
        if step == 3 {
            HOLDS.set(3);
        }
    };
    let (outcome, told) = bench.run(("late", [8, 1]), None, shrink);
    assert_eq!((outcome.unwrap().micro_batch, told.len()), (Some(2), 2));
    assert!(told[1].starts_with("step 4: out of memory with 4 samples"), "{told:?}");
    // That of the failed step was written again, with the size that the run goes on with.
    assert_eq!(micro_batch(&bench.checkpoint("late", 3)), Some(2));

    bench.run(("small", [2, 4]), None, nothing).0.unwrap();
    let off = bench.apart("late", "small");
    assert!(off <= 1e-5, "{off}");

    let cut = move |step: usize, stop: &AtomicBool| {
        shrink(step, stop);
        stop.store(step == 6, Ordering::Relaxed);
    };
    let (outcome, _) = bench.run(("cut", [8, 1]), None, cut);
    assert_eq!(outcome.unwrap().ending, Ending::Interrupted);
    let (outcome, told) = bench.run(("cut", [8, 1]), Some(Resume::Latest), nothing);
    assert_eq!((outcome.unwrap().micro_batch, told.len()), (Some(2), 0));
    assert_eq!(bench.apart("cut", "late"), 0.0);
}

#[test]
fn a_sample_that_does_not_fit_alone_ends_the_run_with_what_else_would_help() {
    let bench = Bench::new();
    let (error, told) = bench.run(("out", [8, 1]), None, |step, _| {
        if step == 6 {
            HOLDS.set(0);
        }
    });
    let error = error.unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { step: 7, rows: 1, .. }), "{error}");
    let text = error.to_string();
    for part in [
        "data.max_length",
        "train.checkpointing=1",
        "optim.kind=adamw_8bit",
        "step-6",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(told.len(), 3, "8, 4, 2: {told:?}");
    let (outcome, _) = bench.run(("out", [8, 1]), Some(Resume::Latest), nothing);
    assert_eq!(
        (outcome.unwrap().steps, micro_batch(&bench.checkpoint("out", 6))),
        (9, Some(1))
    );
}

/// However samples share rows: a pass of as many samples, or of as many rows.
#[test]
fn packed_passes_are_cut_too() {
    for (pack, length, holds, size) in [("true", 16, 6, 2), ("'auto'", 64, 2, 2)] {
        let bench = Bench::new();
        let config = CONFIG.replace(
            "pack = false",
            &format!("pack = {pack}\nmax_length = {length}\nshuffle = false"),
        );
        fs::write(bench.path("run.toml"), config).unwrap();
        HOLDS.set(holds);
        let (outcome, told) = bench.run(("large", [8, 1]), None, nothing);
        assert_eq!(outcome.unwrap().micro_batch, Some(size), "{told:?}");
        bench.run(("small", [size, 8 / size]), None, nothing).0.unwrap();
        assert_eq!(bench.apart("large", "small"), 0.0, "pack = {pack}");
    }
}

#[test]
fn an_evaluation_is_cut_until_it_fits() {
    let bench = Bench::new();
    let text = fs::read_to_string(bench.path("train.txt")).unwrap();
    fs::write(bench.path("valid.txt"), text).unwrap();
    fs::write(
        bench.path("run.toml"),
        CONFIG.replace("format", "valid = 'valid.txt'\nformat"),
    )
    .unwrap();
    let plain = bench.run(("plain", [2, 4]), None, nothing).0.unwrap();
    let large = CONFIG
        .replace("format", "valid = 'valid.txt'\nformat")
        .replace("samples = 0", "samples = 0\nbatch_size = 16");
    fs::write(bench.path("run.toml"), large).unwrap();
    HOLDS.set(2);
    let (cut, told) = bench.run(("cut", [2, 4]), None, nothing);
    let cut = cut.unwrap();
    assert_eq!((cut.micro_batch, told.len()), (None, 0));
    for (a, b) in [(plain.before, cut.before), (plain.after, cut.after)] {
        let (a, b) = (a.unwrap().loss, b.unwrap().loss);
        assert!((a - b).abs() < 1e-6 * a, "{a} and {b}");
    }
    HOLDS.set(0);
    let error = bench.run(("none", [2, 4]), None, nothing).0.unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { step: 0, rows: 1, .. }), "{error}");
}

#[test]
fn a_limit_counts_steps_that_began_within_it() {
    let limit = |start| MemoryLimit {
        bytes: 100,
        start,
        told: false,
    };
    assert!(limit(Some(100)).is_of_the_step() && !limit(Some(101)).is_of_the_step());
    assert_eq!(
        limit(None).exceeded(),
        None,
        "where the peak cannot start anew nothing is judged"
    );
    let mut now = limit(None);
    now.begin();
    // This process takes more than 100 bytes.
    assert_eq!(now.exceeded().is_some(), cfg!(target_os = "linux"));
    assert!(!now.is_of_the_step());
}
