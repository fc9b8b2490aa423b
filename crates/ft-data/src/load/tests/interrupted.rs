//! Tokenization that was broken off goes on behind the shards that are there.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::cache::{Cache, Entry, How, Writer};

const RECORDS: usize = 700;

/// A record too long is left out now and then, so that records and samples are counted apart.
fn set(folder: &Path) -> DataConfig {
    let line = |i: usize| {
        let times = if i % 7 == 3 { 900 } else { 400 };
        format!("{{\"text\": \"{i} {}\"}}\n", "so it goes on and on, ".repeat(times))
    };
    let file = folder.join("x.jsonl");
    fs::write(&file, (0..RECORDS).map(line).collect::<String>()).unwrap();
    DataConfig {
        cache: Cache::Folder(folder.join("tokens")),
        overlong: crate::Overlong::Drop,
        max_length: 10_000,
        ..DataConfig::new(&file)
    }
}

/// Reads the first `records` of the set into its entry, and is gone.
fn break_off(config: &DataConfig, tokenizer: &Tokenizer, records: usize) -> PathBuf {
    let files = config.train.paths();
    let Cache::Folder(cache) = &config.cache else {
        unreachable!()
    };
    let text = fs::read_to_string(&files[0]).unwrap();
    let head: String = text.split_inclusive('\n').take(records).collect();
    let head_file = files[0].with_file_name("head.jsonl");
    fs::write(&head_file, head).unwrap();
    let mut loader = Loader::new(config, tokenizer, None).unwrap();
    loader.writer = Some(Writer::new(Entry::of(cache, files, config, tokenizer).unwrap(), None));
    loader.read(&[Source::File(&head_file)]).unwrap();
    fs::read_dir(cache).unwrap().next().unwrap().unwrap().path()
}

fn but_cached(data: Dataset) -> Dataset {
    Dataset { cached: None, ..data }
}

#[test]
fn a_set_that_was_broken_off_goes_on_from_its_shards() {
    let folder = tempfile::tempdir().unwrap();
    let (config, tokenizer) = (set(folder.path()), tokenizer());
    let load = |config: &DataConfig| load_samples(&config.train, config, &tokenizer).unwrap();
    let plain = load(&DataConfig {
        cache: Cache::Off,
        ..config.clone()
    });
    assert!(plain.statistics.counts.dropped == 100 && plain.samples.len() == 600);

    let entry = break_off(&config, &tokenizer, 500);
    let shard = |number: usize| entry.join(format!("{number:05}.shard"));
    assert!(shard(0).exists() && entry.join("progress.json").exists() && !entry.join("set.json").exists());
    // A shard that is made again is another file.
    let first = fs::File::open(shard(0))
        .unwrap()
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    let data = load(&config);
    assert_eq!(data.cached.as_ref().unwrap().how, How::Continued);
    assert_eq!(fs::metadata(shard(0)).unwrap().modified().unwrap(), first);
    assert!(but_cached(data) == plain);
    assert!(!entry.join("progress.json").exists());
    let again = load(&config);
    assert_eq!(again.cached.as_ref().unwrap().how, How::Read);
    assert!(but_cached(again) == plain);

    // The entry is the one that a start without a break makes.
    let bytes = |name: &str| fs::read(entry.join(name)).unwrap();
    let names = ["00000.shard", "00001.shard", "set.json"];
    let continued = names.map(bytes);
    fs::remove_dir_all(&entry).unwrap();
    load(&config);
    assert!(names.map(bytes) == continued);
}

#[test]
fn what_is_damaged_of_it_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let (config, tokenizer) = (set(folder.path()), tokenizer());
    let load = || load_samples(&config.train, &config, &tokenizer).unwrap();
    let mut good = None;
    for name in ["00000.shard", "progress.json"] {
        let entry = break_off(&config, &tokenizer, 500);
        let path = entry.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let data = load();
        assert_eq!(data.cached.as_ref().unwrap().how, How::Written, "{name}");
        let data = but_cached(data);
        assert!(*good.get_or_insert_with(|| data.clone()) == data);
        fs::remove_dir_all(&entry).unwrap();
    }
}

#[test]
fn a_flaw_before_the_break_is_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let (config, tokenizer) = (set(folder.path()), tokenizer());
    let file = &config.train.paths()[0];
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, format!("{{\"text\": \"a b c d\"}}\n{{\"txt\": 1}}\n{text}")).unwrap();
    for _ in 0..2 {
        let error = load_samples(&config.train, &config, &tokenizer)
            .unwrap_err()
            .to_string();
        assert!(error.contains("x.jsonl:2: no column `text`"), "{error}");
    }
}
