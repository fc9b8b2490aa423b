//! Reading safetensors checkpoints and GGUF files: memory-mapped, single or sharded, one tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ft_quant::{Scheme, bnb};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::numbers::Coded;
use crate::{convolution, gguf, mxfp4, stacked, text_tower};

/// The tensors of a checkpoint folder, or of a GGUF file.
pub struct Checkpoint {
    pub(crate) dir: PathBuf,
    files: Vec<Mmap>,
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Tensors that are none of the language model's.
    left_out: Vec<String>,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number type in the file; of a tensor in blocks of a GGUF file bf16, as which it counts.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
    pub(crate) file: usize,
    pub(crate) bytes: Range<usize>,
    /// How a tensor of a GGUF file is to be read.
    pub(crate) coded: Option<Coded>,
}

impl Entry {
    /// The type in which it is stored: `bf16`, `q4_K`.
    pub fn type_name(&self) -> String {
        match &self.coded {
            Some(coded) => coded.kind.name.into(),
            None => format!("{:?}", self.dtype).to_lowercase(),
        }
    }

    /// Bytes in the file.
    pub fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Checkpoint {
    /// Opens `dir/model.safetensors`, or the shards that `dir/model.safetensors.index.json` names; or `dir` itself, if it is a GGUF file.
    pub fn open(dir: &Path) -> Result<Self> {
        if ft_gguf::is_gguf(dir) {
            let file = gguf::open(dir)?;
            return Ok(Self {
                dir: dir.into(),
                entries: gguf::entries(&file)?,
                files: vec![file.into_map()],
                left_out: Vec::new(),
            });
        }
        let mut checkpoint = Self {
            dir: dir.into(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            left_out: Vec::new(),
        };
        for file in files_of(dir)? {
            checkpoint.add_file(&file)?;
        }
        checkpoint.take_text_tower();
        checkpoint.take_stacks_apart();
        for (name, entry) in &mut checkpoint.entries {
            convolution::flatten(name, &mut entry.shape);
        }
        Ok(checkpoint)
    }

    fn take_stacks_apart(&mut self) {
        let is_there = |name: &str| self.entries.contains_key(name);
        let of_stack =
            |(name, entry): (&String, &Entry)| Some((name.clone(), stacked::one_by_one(name, entry, is_there)?));
        let stacks: Vec<_> = self.entries.iter().filter_map(of_stack).collect();
        for (name, matrices) in stacks {
            self.entries.remove(&name);
            self.entries.extend(matrices);
        }
    }

    /// Leaves out what is no part of a language model among others, and gives its tensors the names they have alone.
    fn take_text_tower(&mut self) {
        if !self.entries.keys().any(|name| text_tower::alone(name).is_some()) {
            return;
        }
        for (name, entry) in std::mem::take(&mut self.entries) {
            match text_tower::alone(&name) {
                Some(alone) => drop(self.entries.insert(alone, entry)),
                None if name.starts_with("lm_head.") => drop(self.entries.insert(name, entry)),
                None => self.left_out.push(name),
            }
        }
    }

    /// Names of the tensors that are none of the language model's.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether every file that [`open`](Self::open) would read is in `dir`.
    pub fn is_whole(dir: &Path) -> bool {
        ft_gguf::is_gguf(dir) || files_of(dir).is_ok_and(|files| files.iter().all(|file| file.is_file()))
    }

    /// Names and shapes, in name order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|source| Error::Io {
            path: path.into(),
            source,
        })?;
        // SAFETY: the map is read-only; a file changed by another process while mapped could change the values read,
        // which a checkpoint in use is not expected to do.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::Io {
            path: path.into(),
            source,
        })?;
        let bad = |e: safetensors::SafeTensorError| Error::Format {
            path: path.into(),
            why: format!("not a whole safetensors file ({e}); download or copy it again"),
        };
        // `deserialize` also checks that the data section has the length the header promises.
        SafeTensors::deserialize(&map).map_err(bad)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(bad)?;
        let start = 8 + header;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            let entry = Entry {
                dtype: info.dtype,
                shape: info.shape.clone(),
                file: index,
                bytes,
                coded: None,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::Format {
                    path: path.into(),
                    why: format!("{name} is in more than one shard"),
                });
            }
        }
        self.files.push(map);
        Ok(())
    }

    pub(crate) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file][entry.bytes.clone()]
    }

    /// How its layers are quantized, as the first one found says.
    pub fn scheme(&self) -> Option<Scheme> {
        bnb::scheme(self.entries.keys().map(String::as_str), |name| self.stored(name))
    }

    /// Whether it holds the matrix of this name in MXFP4, which is unpacked while it is read.
    pub fn is_mxfp4(&self, name: &str) -> bool {
        mxfp4::names(name.strip_suffix(".weight").unwrap_or(name))
            .iter()
            .all(|name| self.entries.contains_key(name))
    }

    /// Whether it holds any matrix in MXFP4.
    pub fn has_mxfp4(&self) -> bool {
        let paths = self.entries.keys().filter_map(|name| name.strip_suffix(".blocks"));
        paths.into_iter().any(|path| self.is_mxfp4(path))
    }

    /// Gives the pages of a tensor that has been read back to the system: a model that is being loaded is then in memory
    /// once, not once more as a file. They are read again if anybody asks.
    pub(crate) fn release(&self, name: &str) {
        #[cfg(unix)]
        if let Some(entry) = self.entries.get(name) {
            let (start, len) = (entry.bytes.start, entry.bytes.len());
            // SAFETY: the map is of a file and read-only: nothing that was written can be lost.
            let advice = unsafe {
                self.files[entry.file].unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len)
            };
            // Advice that is not taken costs memory, nothing else.
            let _ = advice;
        }
        #[cfg(not(unix))]
        let _ = name;
    }

    /// A tensor of a type that quantized layers are made of.
    pub(crate) fn stored(&self, name: &str) -> Option<bnb::Stored> {
        let entry = self.entries.get(name).filter(|entry| entry.coded.is_none())?;
        let dtype = match entry.dtype {
            Dtype::U8 => bnb::Type::U8,
            Dtype::I8 => bnb::Type::I8,
            Dtype::F32 => bnb::Type::F32,
            Dtype::BF16 => bnb::Type::BF16,
            _ => return None,
        };
        Some(bnb::Stored {
            name: name.into(),
            dtype,
            shape: entry.shape.clone(),
            bytes: self.bytes(entry).to_vec(),
        })
    }
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let text = match std::fs::read_to_string(&index) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let why = "no model.safetensors and no model.safetensors.index.json here".into();
            return Err(Error::Format { path: dir.into(), why });
        }
        Err(source) => return Err(Error::Io { path: index, source }),
    };
    let format = |why: String| Error::Format {
        path: index.clone(),
        why,
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| format(format!("not valid JSON: {e}")))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| format("no \"weight_map\" object".into()))?;
    let mut files: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty()
        || files
            .iter()
            .any(|name| name.contains(['/', '\\']) || name.starts_with(".."))
    {
        return Err(format("\"weight_map\" must map tensors to files of this folder".into()));
    }
    Ok(files.into_iter().map(|name| dir.join(name)).collect())
}
