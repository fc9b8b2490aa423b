//! Whether augmentation helps: `cargo xtask bench augment`. A small model is fine-tuned whole on SST-2 (a word of judgement) and on E2E (a
//! sentence from facts), on 500 and 5,000 rows, without augmentation and with some operators, three seeds each. All runs of a size take as
//! many steps, so that made rows come in the place of given ones and not on top. Lines are kept run by run: what is there is not run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use ft_data::{DataConfig, Tokenizer, load_records, shuffle, stream};
use ft_train::{FitOptions, Plan, RunConfig, fit};
use serde_json::{Value, json};

use crate::augment_results::{self, Line, OPERATORS, SEEDS, SETS, SIZES};

/// Folders: a model, and data with files that begin with `train` and `dev`.
const FOLDERS: [&str; 3] = ["FT_BENCH_MODEL", "FT_BENCH_SST2", "FT_BENCH_E2E"];

/// Where the lines go, if anywhere.
const RECORD: &str = "FT_BENCH_RECORD";

/// Held-out rows that are looked at.
const HELD_OUT: usize = 400;

#[test]
#[ignore = "takes an hour, and a model and data from outside"]
fn bench() {
    let [model, sst2, e2e] =
        FOLDERS.map(|name| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name}"))));
    let record = std::env::var_os(RECORD).map(PathBuf::from);
    let sets = [
        of_reviews([file(&sst2, "train"), file(&sst2, "dev")]),
        of_facts([file(&e2e, "train"), file(&e2e, "dev")], &model),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut lines = record.as_deref().map_or(Vec::new(), augment_results::read);
    for job in jobs() {
        let new = |line: &Line| line.key() != job.line(Value::Null).key();
        if !lines.iter().all(new) {
            continue;
        }
        let started = Instant::now();
        let line = job.line(run(dir.path(), &model, &job, &sets[job.set]));
        eprintln!("{} in {:.0} s", line.0, started.elapsed().as_secs_f64());
        if let Some(path) = &record {
            augment_results::keep(path, vec![line.clone()]);
        }
        lines.push(line);
    }
    lines.sort_by_key(Line::key);
    println!("{}", augment_results::table(&lines));
}

/// One run to come: numbers in the lists of [`augment_results`].
struct Job {
    set: usize,
    size: usize,
    operators: usize,
    seed: u64,
}

/// Seeds outermost, so that what there is after some time is a whole table of fewer seeds.
fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for seed in 0..SEEDS as u64 {
        for (set, size) in (0..SETS.len()).flat_map(|set| (0..SIZES.len()).map(move |size| (set, size))) {
            jobs.extend((0..OPERATORS.len()).map(|operators| Job {
                set,
                size,
                operators,
                seed,
            }));
        }
    }
    jobs
}

impl Job {
    fn line(&self, scores: Value) -> Line {
        Line(json!({
            "set": SETS[self.set].name,
            "rows": SIZES[self.size],
            "operators": OPERATORS[self.operators].0,
            "seed": self.seed,
            "scores": scores,
        }))
    }
}

fn file(folder: &Path, start: &str) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(start))
    };
    files
        .into_iter()
        .find(named)
        .unwrap_or_else(|| panic!("{}: no file {start}*", folder.display()))
}

/// Training and held-out records: texts and labels divided by a tab, no header.
fn of_reviews(files: [PathBuf; 2]) -> [Vec<String>; 2] {
    let record = |line: &str| {
        let (text, label) = line.split_once('\t').expect("a text, a tab and a label");
        let judgement = if label.trim() == "1" { " good" } else { " bad" };
        json!({ "prompt": format!("Review: {text}\nIt was"), "completion": judgement }).to_string()
    };
    files.map(|file| fs::read_to_string(file).unwrap().lines().map(record).collect())
}

/// The same of a table with the columns `mr` and `ref`.
fn of_facts(files: [PathBuf; 2], model: &Path) -> [Vec<String>; 2] {
    let tokenizer = Tokenizer::from_dir(model).unwrap();
    files.map(|file| {
        let mut config = DataConfig::new(file.as_path());
        config.map.insert("prompt".into(), "Facts: {mr}\nSentence:\n".into());
        config.map.insert("completion".into(), "{ref}".into());
        let records = load_records(file.as_path(), &config, None, &tokenizer).unwrap();
        records.rows.iter().map(|row| row.line()).collect()
    })
}

/// What a run comes to on held-out rows, and how many rows were made for it.
fn run(dir: &Path, model: &Path, job: &Job, [train, held_out]: &[Vec<String>; 2]) -> Value {
    let mut train = train.clone();
    shuffle(&mut train, &mut stream(job.seed, "rows"));
    train.truncate(SIZES[job.size]);
    fs::write(dir.join("train.jsonl"), train.join("\n")).unwrap();
    fs::write(dir.join("dev.jsonl"), held_out[..HELD_OUT].join("\n")).unwrap();
    let set = &SETS[job.set];
    let text = format!(
        "[model]\npath = {model:?}\n[peft]\nmethod = \"full\"\n[data]\ntrain = \"train.jsonl\"\nvalid = \"dev.jsonl\"\nformat = \
         \"prompt-completion\"\nmax_length = 320\ncache = false\n[optim]\nlr = 2e-3\n[schedule]\nkind = \"cosine\"\nwarmup = \
         0.1\n[train]\nbatch_size = 16\nsteps = {}\neval_every = 100000\nseed = {}\nout = {:?}\n[eval]\nsamples = 0\nat_start = \
         false\nmetrics = [{:?}]\nmax_answers = {}\n[generate]\nmax_new_tokens = {}\ntemperature = 0\n{}",
        set.steps[job.size],
        job.seed,
        dir.join("run"),
        set.metric,
        set.answers,
        set.answer_tokens,
        OPERATORS[job.operators].1,
    );
    let config = RunConfig::parse(&dir.join("run.toml"), text, &[]).unwrap_or_else(|e| panic!("{e}"));
    let plan = Plan::resolve(config, &Device::flex(), "cpu").unwrap_or_else(|e| panic!("{e}"));
    let made = plan.summary().data.train.counts.made;
    let outcome = fit(plan, FitOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    fs::remove_dir_all(&outcome.out).unwrap();
    let after = serde_json::to_value(outcome.after.expect("held-out rows")).unwrap();
    let metric = after
        .pointer(&format!("/metrics/{}", set.metric))
        .or(after.get(set.metric));
    json!({ "loss": after["loss"], set.metric: metric.expect("the metric"), "made": made })
}
