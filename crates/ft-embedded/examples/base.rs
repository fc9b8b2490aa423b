//! The two ends of `cargo xtask base`; `ft train configs/base.toml` stands between them.
//!
//! ```text
//! base write DIR              corpus.jsonl, corpus_valid.jsonl, tokenizer.json, train.jsonl, valid.jsonl; the configs
//! base install DIR MODEL      MODEL/model.safetensors, rounded to bf16, and what `write` wrote -> assets/
//! ```

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ft_embedded::recipe;
use half::bf16;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::Serialize;
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Result, TokenizerBuilder};

/// Written by hand, and needed beside the weights.
const CONFIGS: [&str; 3] = ["config.json", "generation_config.json", "tokenizer_config.json"];
const DRAWN: [&str; 3] = ["tokenizer.json", "train.jsonl", "valid.jsonl"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", dir] => write(Path::new(dir)),
        ["install", dir, model] => install(Path::new(dir), Path::new(model)),
        _ => Err("usage: base write DIR | base install DIR MODEL".into()),
    }
}

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
}

fn write(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    lines(
        &dir.join("corpus.jsonl"),
        recipe::corpus().map(|text| json!({ "text": text })),
    )?;
    lines(
        &dir.join("corpus_valid.jsonl"),
        recipe::corpus_valid().map(|text| json!({ "text": text })),
    )?;
    lines(&dir.join("train.jsonl"), recipe::train())?;
    lines(&dir.join("valid.jsonl"), recipe::valid())?;
    fs::write(dir.join("tokenizer.json"), tokenizer()?)?;
    for name in CONFIGS {
        fs::copy(assets().join(name), dir.join(name))?;
    }
    Ok(())
}

fn lines<T: Serialize>(path: &Path, lines: impl Iterator<Item = T>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        writeln!(file, "{}", serde_json::to_string(&line)?)?;
    }
    file.flush()
}

/// A byte-level BPE, as the text of its `tokenizer.json`. Ties between pairs are broken by their ids, so the result does
/// not depend on the number of threads.
fn tokenizer() -> Result<String> {
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
    tokenizer.train(&mut trainer, recipe::corpus().take(recipe::TOKENIZER_DOCUMENTS))?;
    Ok(tokenizer.to_string(true)? + "\n")
}

fn install(dir: &Path, model: &Path) -> Result<()> {
    let bytes = fs::read(model.join("model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let rounded = tensors
        .iter()
        .map(|(name, view)| (name, Rounded::of(view.shape(), view.data())));
    let metadata = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize_to_file(rounded, Some(metadata), &assets().join("model.safetensors"))?;
    for name in DRAWN {
        fs::copy(dir.join(name), assets().join(name))?;
    }
    Ok(())
}

/// An f32 tensor as bf16, rounded to nearest even.
struct Rounded {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Rounded {
    fn of(shape: &[usize], data: &[u8]) -> Self {
        let (floats, _) = data.as_chunks::<4>();
        let bytes = floats
            .iter()
            .flat_map(|float| bf16::from_f32(f32::from_le_bytes(*float)).to_le_bytes());
        Self {
            shape: shape.to_vec(),
            bytes: bytes.collect(),
        }
    }
}

impl View for Rounded {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use ft_embedded::ASSETS;

    #[test]
    fn the_committed_tokenizer_is_the_one_the_corpus_gives() {
        let committed = ASSETS.iter().find(|a| a.name == "tokenizer.json").expect("embedded");
        assert!(
            super::tokenizer().expect("trains").as_bytes() == committed.bytes,
            "run `cargo xtask base`"
        );
    }
}
