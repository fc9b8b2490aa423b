//! Entries of the token cache: a shard, what is known of the set, and what a start that was broken off leaves.

use std::fs;
use std::path::{Path, PathBuf};

use ft_data::{Cache, DataConfig, Dataset, Sample, Tokenizer, load_samples};
use ft_seed::below;

use super::{Bench, pick, words};
use crate::fuzz::mutate;
use crate::support::fixture;

/// Where the checksum of a shard stands, and what it counts.
const CHECKSUM: std::ops::Range<usize> = 8..12;

struct Entry {
    config: DataConfig,
    tokenizer: Tokenizer,
    /// The files of the entry as they were written.
    files: Vec<(PathBuf, Vec<u8>)>,
    good: Dataset,
}

impl Entry {
    fn make(folder: &Path, name: &str, lines: &str) -> Self {
        let file = folder.join(name);
        fs::write(&file, lines).unwrap();
        let config = DataConfig {
            cache: Cache::Folder(folder.join("tokens")),
            ..DataConfig::new(&file)
        };
        let tokenizer = Tokenizer::from_dir(&fixture("tokenizers/chatml")).unwrap();
        let good = load_samples(&file, &config, &tokenizer).unwrap();
        let own = good.cached.as_ref().unwrap().folder.clone();
        let paths = fs::read_dir(own).unwrap().map(|entry| entry.unwrap().path());
        let files = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        Self {
            config,
            tokenizer,
            files,
            good,
        }
    }

    fn write(path: &Path, bytes: &[u8]) {
        // A file that is mapped somewhere stays what it is.
        let _ = fs::remove_file(path);
        fs::write(path, bytes).unwrap();
    }
}

fn walk(sample: &Sample) {
    let learned = sample.learn();
    assert!(learned.len() == sample.ids.len() && sample.target_tokens() <= learned.len());
    if let Some(rejected) = sample.rejected() {
        walk(rejected);
    }
}

pub fn token_cache() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let answers: String = (0..60)
        .map(|i| {
            format!(
                "{{\"prompt\": \"{i}?\", \"completion\": \"{}\"}}\n",
                "so ".repeat(i % 9 + 1)
            )
        })
        .collect();
    let pairs: String = (0..20)
        .map(|i| format!("{{\"prompt\": \"{i}?\", \"chosen\": \"yes {i}\", \"rejected\": \"no\"}}\n"))
        .collect();
    let entries = [("a.jsonl", answers), ("b.jsonl", pairs)].map(|(name, lines)| {
        let folder = dir.path().join(name.replace('.', "-"));
        fs::create_dir(&folder).unwrap();
        Entry::make(&folder, name, &lines)
    });
    Box::new(move |rng| {
        let _kept = &dir;
        let entry = pick(rng, &entries);
        let mut sealed = false;
        for (path, bytes) in &entry.files {
            Entry::write(path, bytes);
            let is_shard = path.extension().is_some_and(|ending| ending == "shard");
            if below(rng, 3) == 0 {
                continue;
            }
            let mut bytes = mutate::bytes(rng, bytes.clone(), 12);
            // Half of the time with the right checksum, so that what stands behind it is looked at.
            if is_shard && bytes.len() > CHECKSUM.end && below(rng, 2) == 0 {
                let crc32 = crc32fast::hash(&bytes[CHECKSUM.end..]);
                bytes[CHECKSUM].copy_from_slice(&crc32.to_ne_bytes());
                sealed = true;
            }
            // What a start that was broken off leaves.
            let unfinished = !is_shard && below(rng, 4) == 0;
            let progress = path.with_file_name("progress.json");
            if unfinished {
                fs::remove_file(path).unwrap();
                Entry::write(&progress, &bytes);
            } else {
                let _ = fs::remove_file(&progress);
                Entry::write(path, &bytes);
            }
        }
        let set = load_samples(&entry.config.train, &entry.config, &entry.tokenizer).map_err(words)?;
        set.samples.iter().for_each(walk);
        assert!(sealed || set.samples == entry.good.samples, "wrong success");
        Ok(())
    })
}
