//! Writes what the embedded base is made from: `cargo run -p ft-embedded --example write -- DIR`.
//!
//! `DIR/corpus.jsonl` and `DIR/corpus_valid.jsonl` (format `text`) for the pretraining, `DIR/tokenizer.json`, and the
//! fine-tuning data `DIR/train.jsonl` and `DIR/valid.jsonl`. `cargo xtask base` runs this first.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ft_embedded::recipe;
use serde::Serialize;
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Result, TokenizerBuilder};

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).ok_or("usage: write DIR")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    write_lines(
        &dir.join("corpus.jsonl"),
        recipe::corpus().map(|text| json!({ "text": text })),
    )?;
    write_lines(
        &dir.join("corpus_valid.jsonl"),
        recipe::corpus_valid().map(|text| json!({ "text": text })),
    )?;
    write_lines(&dir.join("train.jsonl"), recipe::train())?;
    write_lines(&dir.join("valid.jsonl"), recipe::valid())?;
    write_tokenizer(&dir.join("tokenizer.json"))
}

fn write_lines<T: Serialize>(path: &Path, lines: impl Iterator<Item = T>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        writeln!(file, "{}", serde_json::to_string(&line)?)?;
    }
    file.flush()
}

/// A byte-level BPE, trained on the corpus. Ties between pairs are broken by their ids, so the result does not depend on
/// the number of threads.
fn write_tokenizer(path: &Path) -> Result<()> {
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(recipe::VOCAB_SIZE)
        .special_tokens(vec![AddedToken::from(recipe::END, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let bytes = ByteLevel::default().add_prefix_space(false);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(bytes.trim_offsets(false)))
        .with_decoder(Some(bytes))
        .build()?;
    tokenizer.train(&mut trainer, recipe::corpus())?.save(path, true)?;
    Ok(())
}
