//! How data is stored: compressed, in columns.

use std::io::Write;
use std::path::PathBuf;

use ft_data::{DataConfig, Source, Tokenizer, load_source};
use ft_seed::below;

use super::{Bench, pick, words};
use crate::fuzz::mutate;
use crate::support::fixture;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&fixture("tokenizers/chatml")).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

pub fn compressed() -> Bench {
    let lines: String = (0..200)
        .map(|i| format!("{{\"prompt\": \"{}\", \"completion\": \"{i}\"}}\n", i * 7919 % 1009))
        .collect();
    let bomb = "x".repeat(40 << 20).into_bytes();
    let seeds = [gzip(lines.as_bytes()), zstd(lines.as_bytes())];
    let bombs = [gzip(&bomb), zstd(&bomb)];
    let tokenizer = tokenizer();
    let read = move |name: &str, bytes: &[u8]| {
        let config = DataConfig::new(name);
        load_source(Source::Memory { name, bytes }, &config, &tokenizer).map_err(words)
    };
    let whole = read("x.jsonl", lines.as_bytes()).unwrap();
    Box::new(move |rng| {
        let at = below(rng, 2);
        let seed = if below(rng, 50) == 0 { &bombs[at] } else { &seeds[at] };
        let bytes = match below(rng, 8) {
            0 => [seed.as_slice(), pick(rng, &seeds).as_slice()].concat(),
            _ => seed.clone(),
        };
        let bytes = mutate::bytes(rng, bytes, 24);
        let name = *pick(rng, &["x.jsonl.gz", "x.jsonl.zst", "x.jsonl", "x.csv.gz", "x.txt.zst"]);
        let set = read(name, &bytes)?;
        // A checksum stands behind every member of a gzip file; that of a Zstandard frame can be taken away by its header.
        if bytes.starts_with(&[0x1f, 0x8b]) && name.contains("jsonl") {
            let known = |sample| whole.samples.contains(sample);
            assert!(set.samples.iter().all(known), "wrong success");
        }
        Ok(())
    })
}

/// Patterns, folders, lists and names of splits, over a folder laid out as on the Hub.
pub fn names() -> Bench {
    const FILES: &[&str] = &[
        "train.jsonl",
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/test-00000-of-00001.jsonl.gz",
        "validation/part.csv",
        "validation/.hidden.csv",
        "README.md",
        "deep/er/x.txt",
    ];
    const SEEDS: &[&str] = &[
        "*.jsonl",
        "data/*",
        "**/*.txt",
        "data",
        "",
        "[a-z]*",
        "train.jsonl",
        "{a,b}.csv",
        "validation",
    ];
    const WORDS: &[&str] = &[
        "**", "*", "[", "]", "[!", "?", "/", "//", "\\", "\0", "~", ".", "-of-", "00000", "train", "\u{202e}", "hf://",
        "é",
    ];
    const SPLITS: &[&str] = &["train", "test", "validation", "../data", "*", "", "TRAIN", "nowhere"];
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{\"text\": \"a\"}\n").unwrap();
    }
    Box::new(move |rng| {
        let mut name = || {
            let seed = pick(rng, SEEDS);
            let seed = mutate::lines(rng, seed.as_bytes(), WORDS);
            // Never outside of the folder, where there is much to walk through.
            let seed = String::from_utf8_lossy(&seed).replace("..", ".");
            PathBuf::from(format!("{}/{seed}", dir.path().display()))
        };
        let files: Vec<_> = [name(), name()].into();
        let mut config = DataConfig::new("x");
        config.train = files[..1 + below(rng, 2)].to_vec().into();
        config.split = (below(rng, 2) == 0).then(|| (*pick(rng, SPLITS)).into());
        config.valid_split_name = (below(rng, 2) == 0).then(|| (*pick(rng, SPLITS)).into());
        let found = config.train_files().map_err(words)?;
        assert!(
            !found.is_empty() && found.paths().iter().all(|path| path.exists()),
            "wrong success"
        );
        config.valid_files().map(drop).map_err(words)
    })
}

#[cfg(feature = "parquet")]
fn columns(names: &'static [&'static str], head: bool) -> Bench {
    let folder = fixture("columns");
    let seeds: Vec<(&str, Vec<u8>)> = names
        .iter()
        .map(|name| (*name, super::read(&folder.join(name))))
        .collect();
    let tokenizer = tokenizer();
    Box::new(move |rng| {
        let (name, seed) = pick(rng, &seeds);
        let mut bytes = seed.clone();
        // The description stands behind the data in Parquet files.
        if head || below(rng, 2) == 0 {
            bytes = mutate::bytes(rng, bytes, 1024);
        } else {
            bytes.reverse();
            bytes = mutate::bytes(rng, bytes, 4096);
            bytes.reverse();
        }
        let mut config = DataConfig::new(*name);
        config
            .map
            .insert("prompt".into(), "{messages} {meta} {score} {at} {tags}".into());
        config
            .map
            .insert("completion".into(), "{refs|join(\" \")} {raw}".into());
        let set = load_source(Source::Memory { name, bytes: &bytes }, &config, &tokenizer).map_err(words)?;
        assert_eq!(set.samples.len(), set.places.len(), "wrong success");
        Ok(())
    })
}

#[cfg(feature = "parquet")]
pub fn parquet() -> Bench {
    columns(
        &[
            "none.parquet",
            "snappy.parquet",
            "gzip.parquet",
            "zstd.parquet",
            "lz4.parquet",
        ],
        false,
    )
}

#[cfg(feature = "parquet")]
pub fn arrow() -> Bench {
    columns(&["stream.arrow", "file.arrow", "lz4.feather", "zstd.feather"], true)
}
