//! A teacher's scores in a file: its most probable tokens for every target token of a run's samples, computed once.
//!
//! ```text
//! safetensors   metadata   what the scores are of, and the CRC-32 of the data
//!               scores     u8 [target tokens, 8 k]: k token ids (u32), then k natural log-probabilities (f32), the most probable first
//! ```
//!
//! The training samples' target tokens come first, sample by sample, then those of the held-out ones. The file is mapped into memory,
//! so that a run reads no more of it than the samples of its batches.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor};
use ft_data::{Batch, Sample, passing};
use ft_kernels::Teacher;
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::Serialize;
use serde_json::json;

use super::top_scores::{from_records, record_bytes, to_records};
use crate::{Error, Result};

const FORMAT: &str = "ft teacher scores, version 1";

/// What the scores are of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct About {
    /// CRC-32 of the training samples and of the held-out ones: tokens and target marks.
    pub samples: [u32; 2],
    /// Target tokens of both.
    pub tokens: [usize; 2],
    /// Tokens that are kept for each.
    pub top_k: usize,
    /// Rows of the vocabulary that the probabilities are over.
    pub vocabulary: usize,
    /// Temperature of the probabilities.
    pub temperature: f64,
    /// CRC-32 of the teacher's files.
    pub teacher: u32,
}

impl About {
    fn metadata(&self, crc32: u32) -> serde_json::Value {
        json!({
            "format": FORMAT,
            "train_crc32": format!("{:08x}", self.samples[0]),
            "valid_crc32": format!("{:08x}", self.samples[1]),
            "train_tokens": self.tokens[0].to_string(),
            "valid_tokens": self.tokens[1].to_string(),
            "top_k": self.top_k.to_string(),
            "vocabulary": self.vocabulary.to_string(),
            "temperature": format!("{:?}", self.temperature),
            "teacher_crc32": format!("{:08x}", self.teacher),
            "crc32": format!("{crc32:08x}"),
        })
    }

    fn header(&self, crc32: u32) -> Vec<u8> {
        let (rows, width) = (self.tokens.iter().sum::<usize>(), 8 * self.top_k);
        let header = json!({
            "__metadata__": self.metadata(crc32),
            "scores": { "dtype": "U8", "shape": [rows, width], "data_offsets": [0, rows * width] },
        });
        let mut text = header.to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        [&(text.len() as u64).to_le_bytes()[..], &text].concat()
    }

    fn read(metadata: &HashMap<String, String>) -> Option<(Self, u32)> {
        let text = |key: &str| metadata.get(key).map(String::as_str);
        let hex = |key: &str| u32::from_str_radix(text(key)?, 16).ok();
        let number = |key: &str| text(key)?.parse::<usize>().ok();
        if text("format") != Some(FORMAT) {
            return None;
        }
        let about = Self {
            samples: [hex("train_crc32")?, hex("valid_crc32")?],
            tokens: [number("train_tokens")?, number("valid_tokens")?],
            top_k: number("top_k")?,
            vocabulary: number("vocabulary")?,
            temperature: text("temperature")?.parse().ok()?,
            teacher: hex("teacher_crc32")?,
        };
        Some((about, hex("crc32")?))
    }

    /// Why scores of this are none for a run whose samples and settings are `wanted`.
    fn differs(&self, wanted: &About) -> Option<String> {
        let changed = |what: &str| Some(format!("{what}; write it again with `ft distill cache`"));
        match () {
            () if self.samples[0] != wanted.samples[0] || self.tokens[0] != wanted.tokens[0] => {
                changed("it was made from other training samples, or with another tokenizer or template")
            }
            () if self.samples[1] != wanted.samples[1] || self.tokens[1] != wanted.tokens[1] => {
                changed("it was made from other held-out samples, or with another tokenizer or template")
            }
            () if self.temperature != wanted.temperature => changed(&format!(
                "its probabilities are at temperature {}, objective.temperature is {}",
                self.temperature, wanted.temperature
            )),
            () if self.vocabulary > wanted.vocabulary => changed(&format!(
                "it scores {} tokens, and this model has {}",
                self.vocabulary, wanted.vocabulary
            )),
            () if wanted.teacher != 0 && self.teacher != wanted.teacher => changed("it was made by another teacher"),
            () => None,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct WrittenCache {
    /// The file.
    pub out: PathBuf,
    /// Target tokens.
    pub tokens: usize,
    /// Scores of each.
    pub top_k: usize,
    /// Size of the file.
    pub bytes: u64,
}

/// A cache being written, target token by target token.
pub(crate) struct Writer<'a> {
    about: About,
    path: &'a Path,
    file: std::io::BufWriter<File>,
    crc32: crc32fast::Hasher,
    tokens: usize,
}

impl<'a> Writer<'a> {
    pub fn create(path: &'a Path, about: About) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        let mut file = std::io::BufWriter::new(file);
        file.write_all(&about.header(0)).map_err(|e| Error::io(path, e))?;
        Ok(Self {
            about,
            path,
            file,
            crc32: crc32fast::Hasher::new(),
            tokens: 0,
        })
    }

    /// Appends the scores of some target tokens, `[n, k]` both.
    pub fn push(&mut self, ids: Tensor<2, Int>, log_probs: Tensor<2>) -> Result<()> {
        let [tokens, _] = ids.dims();
        let records = to_records(ids, log_probs);
        self.crc32.update(&records);
        self.file.write_all(&records).map_err(|e| Error::io(self.path, e))?;
        self.tokens += tokens;
        Ok(())
    }

    pub fn finish(self) -> Result<WrittenCache> {
        let Self {
            about,
            path,
            mut file,
            crc32,
            tokens,
        } = self;
        debug_assert_eq!(tokens, about.tokens.iter().sum::<usize>());
        let io = |e| Error::io(path, e);
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        file.write_all(&about.header(crc32.finalize())).map_err(io)?;
        let file = file.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
        file.sync_all().map_err(io)?;
        Ok(WrittenCache {
            out: path.to_owned(),
            tokens,
            top_k: about.top_k,
            bytes: file.metadata().map_err(io)?.len(),
        })
    }
}

/// A cache that is mapped into memory.
#[derive(Debug)]
pub(crate) struct TeacherCache {
    about: About,
    path: PathBuf,
    map: Mmap,
    /// Where the scores begin in the file.
    start: usize,
    crc32: u32,
}

impl TeacherCache {
    /// Opens a file, if its scores are of `wanted`.
    pub fn open(path: &Path, wanted: &About) -> Result<Self> {
        let refused = |why: String| Error::Plan(vec![format!("objective.cache: {}: {why}", path.display())]);
        let file = File::open(path).map_err(|e| refused(e.to_string()))?;
        // SAFETY: the file is read alone; who changes it under a running program changes what the run learns from.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| refused(e.to_string()))?;
        let no_cache = || refused("is no file of `ft distill cache`".into());
        let (length, header) = SafeTensors::read_metadata(&map).map_err(|_| no_cache())?;
        let (about, crc32) = header.metadata().as_ref().and_then(About::read).ok_or_else(no_cache)?;
        let start = 8 + length;
        let rows = about.tokens[0].checked_add(about.tokens[1]);
        let bytes = rows.and_then(|rows| rows.checked_mul(8)?.checked_mul(about.top_k));
        if about.top_k == 0 || bytes != Some(map.len() - start) {
            return Err(refused("is cut short; write it again".into()));
        }
        if let Some(why) = about.differs(wanted) {
            return Err(refused(why));
        }
        Ok(Self {
            about,
            path: path.to_owned(),
            map,
            start,
            crc32,
        })
    }

    /// Reads all of it once, to know that it is what was written.
    pub fn verify(&self) -> Result<()> {
        if crc32fast::hash(&self.map[self.start..]) == self.crc32 {
            return Ok(());
        }
        let why = format!("objective.cache: {}: is damaged; write it again", self.path.display());
        Err(Error::Plan(vec![why]))
    }

    /// The scores of a batch, whose samples begin at these target tokens of the file.
    pub fn teacher(&self, batch: &Batch, starts: &[usize], device: &Device) -> Teacher {
        let k = self.about.top_k;
        from_records(batch, k, self.about.vocabulary, device, |sample, tokens| {
            let first = self.start + starts[sample] * record_bytes(k);
            &self.map[first..first + tokens * record_bytes(k)]
        })
    }
}

/// The number of target tokens before each sample, from `first` on.
pub(crate) fn starts(samples: &[Sample], first: usize) -> Vec<usize> {
    let next = |sum: &mut usize, sample: &Sample| {
        let start = *sum;
        *sum += sample.target_tokens();
        Some(start)
    };
    passing(samples).scan(first, next).collect()
}
