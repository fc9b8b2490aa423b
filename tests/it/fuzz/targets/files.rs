//! How data is stored: compressed, in columns.

use std::io::Write;

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
