//! Every configuration in `configs/sources/` runs, on files made here from the embedded data; what is read is the same, however it is
//! stored.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ft_data::{DataConfig, Sample, Tokenizer, load_samples};
use ft_train::{Ending, FitOptions, Plan, RunConfig, fit};
use serde_json::{Value, json};

use crate::support::fixture;
use crate::train_support::Workshop;

/// A folder with the embedded model and with its data in every shape that the configurations name.
struct Shelf {
    dir: tempfile::TempDir,
    records: Vec<Value>,
}

const TRAIN: usize = 80;

impl Shelf {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        ft_embedded::unpack(&dir.path().join("model")).unwrap();
        let text = fs::read_to_string(dir.path().join("model/train.jsonl")).unwrap();
        let records = text
            .lines()
            .take(TRAIN + 20)
            .map(|line| serde_json::from_str(line).unwrap());
        let shelf = Self {
            records: records.collect(),
            dir,
        };
        shelf.fill();
        shelf
    }

    fn fill(&self) {
        let (train, valid) = self.records.split_at(TRAIN);
        let (first, second) = train.split_at(TRAIN / 2);
        self.write("first.jsonl", jsonl(first).as_bytes());
        self.write("second.csv", csv(second).as_bytes());
        self.write("valid.json", json!(valid).to_string().as_bytes());
        self.write("parts/1.jsonl.gz", &gzip(&jsonl(first)));
        self.write("parts/2.jsonl.gz", &gzip(&jsonl(second)));
        self.write("parts/.draft.jsonl.gz", b"no data");
        self.write("set/README.md", b"# A card, no data");
        self.write("set/data/train-00000-of-00002.jsonl", jsonl(first).as_bytes());
        self.write("set/data/train-00001-of-00002.jsonl", jsonl(second).as_bytes());
        self.write("set/data/test-00000-of-00001.jsonl", jsonl(valid).as_bytes());
        self.write("train.jsonl.zst", &zstd(&jsonl(train)));
        self.write("valid.csv.gz", &gzip(&csv(valid)));
        self.write("train.tsv", table(train, '\t').as_bytes());
        self.write("valid.tsv", table(valid, '\t').as_bytes());
        let texts: Vec<&str> = train.iter().map(|r| r["prompt"].as_str().unwrap().trim()).collect();
        self.write("notes.txt", texts[..50].join("\n\n").as_bytes());
        self.write("notes.md", texts[50..].join("\n\n").as_bytes());
        for name in ["snappy.parquet", "zstd.feather", "stream.arrow"] {
            self.write(name, &fs::read(fixture("columns").join(name)).unwrap());
        }
        let asked = |r: &Value| json!({"instruction": r["prompt"], "context": "", "response": r["completion"]});
        self.write("hub/README.md", b"# A card, no data");
        self.write(
            "hub/rows.jsonl",
            jsonl(&train.iter().map(asked).collect::<Vec<_>>()).as_bytes(),
        );
        let nested = |record: &Value| {
            let prompt = record["prompt"].as_str().unwrap();
            let (facts, question) = prompt.split_once(' ').unwrap();
            json!({"question": {"parts": [facts, question]}, "refs": [record["completion"], " something else"]})
        };
        self.write(
            "nested.jsonl",
            jsonl(&train.iter().map(nested).collect::<Vec<_>>()).as_bytes(),
        );
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join("data").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The run of a configuration that is copied beside the data.
    fn plan(&self, config: &Path) -> ft_train::Result<Plan> {
        let copy = self.dir.path().join(config.file_name().unwrap());
        fs::copy(config, &copy).unwrap();
        let out = self.dir.path().join("runs").join(config.file_stem().unwrap());
        let model = self.dir.path().join("model");
        let set = |key: &str, path: &Path| format!("{key}={}", path.display());
        let mut sets = vec![
            set("train.out", &out),
            set("model.path", &model),
            "train.steps=2".into(),
        ];
        // What the Hub would give.
        if config.ends_with("hub.toml") {
            sets.push(set("data.train", &self.dir.path().join("data/hub")));
        }
        let config = RunConfig::load(&copy, &sets).unwrap_or_else(|e| panic!("{e}"));
        Plan::resolve(config, &Device::flex(), "cpu")
    }

    /// The samples of these records, from plain lines.
    fn samples(&self, records: &[Value]) -> Vec<Sample> {
        self.write("plain.jsonl", jsonl(records).as_bytes());
        let tokenizer = Tokenizer::from_dir(&self.dir.path().join("model")).unwrap();
        let file = self.dir.path().join("data/plain.jsonl");
        load_samples(&file, &DataConfig::new(&file), &tokenizer)
            .unwrap()
            .samples
    }
}

fn jsonl(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn csv(records: &[Value]) -> String {
    table(records, ',')
}

fn table(records: &[Value], between: char) -> String {
    let cell = |value: &Value| format!("\"{}\"", value.as_str().unwrap().replace('"', "\"\""));
    let row = |r: &Value| format!("{}{between}{}\n", cell(&r["prompt"]), cell(&r["completion"]));
    format!(
        "prompt{between}completion\n{}",
        records.iter().map(row).collect::<String>()
    )
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

fn configurations() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/sources");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_source_runs_and_holds_the_same_samples() {
    let shelf = Shelf::new();
    let (train, valid) = shelf.records.split_at(TRAIN);
    let (train, valid) = (shelf.samples(train), shelf.samples(valid));
    let files = configurations();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        assert!(fs::read_to_string(&file).unwrap().starts_with('#'));
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let plan = match shelf.plan(&file) {
            Err(e) if name == "columns" && !cfg!(feature = "parquet") => {
                assert!(e.to_string().contains("build it with the feature `parquet`"), "{e}");
                continue;
            }
            plan => plan.unwrap_or_else(|e| panic!("{name}: {e}")),
        };
        match name.as_str() {
            // A part of the samples is held out, and of the first 60 only.
            "pattern" => {
                let mut all: Vec<&Sample> = plan.train().iter().chain(plan.valid()).collect();
                all.sort_by_key(|sample| train.iter().position(|other| other == *sample));
                assert!(all.into_iter().eq(&train[..60]), "{name}");
                assert!(!plan.valid().is_empty());
            }
            "nested" => {
                let known = |sample| train.contains(sample);
                assert!(plan.train().iter().chain(plan.valid()).all(known), "{name}");
                assert_eq!(plan.train().len() + plan.valid().len(), TRAIN);
            }
            "columns" => assert_eq!(plan.train().len() + plan.valid().len(), 3 * 7),
            "text" => assert_eq!(plan.train().len() + plan.valid().len(), TRAIN),
            "hub" => assert_eq!(plan.train().len() + plan.valid().len(), TRAIN),
            _ => {
                assert_eq!(plan.train(), train, "{name}");
                assert_eq!(plan.valid(), valid, "{name}");
            }
        }
        let outcome = fit(plan, FitOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 2), "{name}");
    }
}

#[test]
fn a_change_in_any_file_is_seen_by_a_resume() {
    let workshop = Workshop::new();
    let text = fs::read_to_string(workshop.path("train.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (first, second) = (workshop.path("first.jsonl"), workshop.path("second.jsonl.gz"));
    fs::write(&first, lines[..10].join("\n")).unwrap();
    fs::write(&second, gzip(&lines[10..].join("\n"))).unwrap();
    let both = format!("data.train=[{:?}, {:?}]", first, second);
    let sets = [both.as_str()];
    workshop.fit_until("run", &sets, 4);

    let mut changed = lines.clone();
    changed.swap(10, 22);
    fs::write(&second, gzip(&changed[10..].join("\n"))).unwrap();
    let error = workshop.resume("run", &sets).unwrap_err().to_string();
    assert!(
        error.contains("data.train: the training samples are not those of the checkpoint"),
        "{error}"
    );

    fs::write(&second, gzip(&lines[10..].join("\n"))).unwrap();
    workshop.resume("run", &sets).unwrap();
}

#[test]
fn what_is_not_there_is_told_by_key() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("empty")).unwrap();
    let refused = |sets: &[&str]| workshop.plan("out", sets).unwrap_err().to_string();
    let both = refused(&[
        "data.train=[\"gone.jsonl\", \"gone/*.csv\"]",
        "data.valid=nowhere.jsonl",
    ]);
    assert!(
        both.contains("data.train: no file gone.jsonl; no file fits gone/*.csv"),
        "{both}"
    );
    assert!(both.contains("data.valid: no file nowhere.jsonl"), "{both}");
    let empty = refused(&[&format!("data.train={}", workshop.path("empty").display())]);
    assert!(empty.contains("holds no data file"), "{empty}");
    let limited = workshop.plan("out", &["data.limit=5"]).unwrap();
    assert_eq!(limited.train().len(), 5);
    assert_eq!(limited.valid().len(), 7, "held-out records are not limited");
}
