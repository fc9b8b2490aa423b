//! A file that is there already: its header, checked against its length, and where its tensors lie.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::tensor_type::TensorType;
use crate::value::{ARRAY, BOOL, F32, F64, I8, I16, I32, I64, Metadata, STRING, U8, U16, U32, U64, Value};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system's reason.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// What is wrong in it.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The key or tensor, and the way out.
        why: String,
    },
}

/// Dimensions that a tensor can have.
const DIMENSIONS: u32 = 4;

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// `blk.0.attn_q.weight`.
    pub name: String,
    /// Rows first, as in PyTorch.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: &'static TensorType,
    /// Where they are, counted from the start of the file.
    pub bytes: Range<usize>,
}

/// A file, mapped into memory.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    tensors: Vec<Tensor>,
}

/// Whether `path` names a file of this format: one that ends in `.gguf`.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("gguf")) && path.is_file()
}

impl File {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// What is wrong, by key or tensor.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io {
            path: path.into(),
            source,
        };
        let file = std::fs::File::open(path).map_err(io)?;
        // SAFETY: the map is read-only; a file changed by another process while mapped could change the values read,
        // which a model in use is not expected to do.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (metadata, tensors) = parse(&map).map_err(|why| Error::Format { path: path.into(), why })?;
        Ok(Self {
            path: path.into(),
            map,
            metadata,
            tensors,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its tensors, in its order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The numbers of a tensor, row by row.
    pub fn values(&self, tensor: &Tensor) -> Vec<f32> {
        let mut values = vec![0.0; tensor.shape.iter().product()];
        tensor.kind.decode(&self.map[tensor.bytes.clone()], &mut values);
        values
    }

    /// An error in this file.
    pub fn error(&self, why: String) -> Error {
        Error::Format {
            path: self.path.clone(),
            why,
        }
    }

    /// The bytes of the file.
    pub fn into_map(self) -> Mmap {
        self.map
    }
}

fn parse(bytes: &[u8]) -> Result<(Metadata, Vec<Tensor>), String> {
    let mut at = Cursor { bytes, at: 0 };
    if at.take(4).ok() != Some(b"GGUF") {
        return Err("no GGUF file: it does not begin with \"GGUF\"".into());
    }
    let whole = |e: String| format!("{e}; download or copy the file again");
    match at.u32().map_err(whole)? {
        2 | 3 => {}
        1 => return Err("version 1 of the format; llama.cpp writes 3 today: convert the model again".into()),
        // Bytes in the other order: 3 is 50331648.
        version if version & 0xffff == 0 => return Err("numbers are big-endian; little-endian files are read".into()),
        version => return Err(format!("version {version} of the format; versions 2 and 3 are read")),
    }
    let (tensors, keys) = (at.u64().map_err(whole)?, at.u64().map_err(whole)?);
    let mut metadata = Metadata::default();
    let mut known = HashSet::new();
    for index in 0..keys {
        let key = at
            .text()
            .map_err(|e| whole(format!("key {} of {keys}: {e}", index + 1)))?;
        let value = at.value().map_err(|e| whole(format!("{key}: {e}")))?;
        if !known.insert(key.clone()) {
            return Err(format!("{key} is there twice"));
        }
        metadata.append(key, value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(value) => value
            .as_u64()
            .and_then(|alignment| usize::try_from(alignment).ok())
            .filter(|alignment| alignment.is_power_of_two() && *alignment <= 1 << 20)
            .ok_or("general.alignment: a power of two is needed")?,
    };
    let mut found: Vec<(Tensor, usize)> = Vec::new();
    let mut known = HashSet::new();
    for index in 0..tensors {
        let name = at
            .text()
            .map_err(|e| whole(format!("tensor {} of {tensors}: {e}", index + 1)))?;
        let tensor = at.tensor(&name).map_err(|e| whole(format!("{name}: {e}")))?;
        if !known.insert(name.clone()) {
            return Err(format!("{name} is there twice"));
        }
        found.push(tensor);
    }
    let data = at.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let mut placed = Vec::with_capacity(found.len());
    for (tensor, length) in found {
        placed.push(tensor.placed(data, length, alignment, bytes.len())?);
    }
    Ok((metadata, placed))
}

impl Tensor {
    /// The same where it is in a file of `whole` bytes, whose data begin at `data`.
    fn placed(self, data: usize, length: usize, alignment: usize, whole: usize) -> Result<Self, String> {
        let offset = self.bytes.start;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("{}: begins at {offset}, no multiple of {alignment}", self.name));
        }
        let start = data.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(length));
        match (start, end) {
            (Some(start), Some(end)) if end <= whole => Ok(Self {
                bytes: start..end,
                ..self
            }),
            _ => Err(format!(
                "{}: its {length} bytes from {offset} on are beyond the end of the file; download or copy it again",
                self.name
            )),
        }
    }
}

/// Reads numbers and texts in turn, and never beyond the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = Result<T, String>;

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the file ends here")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.number()?))
    }

    /// A count of things of at least `bytes` each, as many as the rest of the file can hold.
    fn count(&mut self, bytes: usize) -> Read<usize> {
        let count = self.u64()?;
        let room = (self.bytes.len() - self.at) / bytes;
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(format!("{count} values are more than the file holds")),
        }
    }

    fn text(&mut self) -> Read<String> {
        let length = self.count(1)?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err("no UTF-8".into()),
        }
    }

    /// A text that may be a piece of a character, as some vocabularies have it.
    fn lossy_text(&mut self) -> Read<String> {
        let length = self.count(1)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self) -> Read<Value> {
        match self.u32()? {
            ARRAY => self.array(),
            STRING => Ok(Value::Text(self.lossy_text()?)),
            BOOL => Ok(Value::Bool(self.number::<1>()?[0] != 0)),
            F32 => Ok(Value::F32(f32::from_le_bytes(self.number()?))),
            F64 => Ok(Value::F32(f64::from_le_bytes(self.number()?) as f32)),
            U32 => Ok(Value::U32(self.u32()?)),
            kind => {
                let whole = self.whole(kind)?;
                Ok(match u32::try_from(whole) {
                    Ok(small) => Value::U32(small),
                    Err(_) => Value::I64(i64::try_from(whole).map_err(|_| format!("{whole} is too large"))?),
                })
            }
        }
    }

    /// A whole number of a type.
    fn whole(&mut self, kind: u32) -> Read<i128> {
        Ok(match kind {
            U8 => u8::from_le_bytes(self.number()?).into(),
            I8 => i8::from_le_bytes(self.number()?).into(),
            U16 => u16::from_le_bytes(self.number()?).into(),
            I16 => i16::from_le_bytes(self.number()?).into(),
            U32 => self.u32()?.into(),
            I32 => i32::from_le_bytes(self.number()?).into(),
            U64 => self.u64()?.into(),
            I64 => i64::from_le_bytes(self.number()?).into(),
            _ => return Err(format!("values of type {kind} are unknown")),
        })
    }

    fn array(&mut self) -> Read<Value> {
        let kind = self.u32()?;
        let bytes = match kind {
            U8 | I8 | BOOL => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | STRING => 8,
            ARRAY => return Err("an array of arrays is not read".into()),
            _ => return Err(format!("values of type {kind} are unknown")),
        };
        let count = self.count(bytes)?;
        let each = 0..count;
        Ok(match kind {
            STRING => Value::Texts(each.map(|_| self.lossy_text()).collect::<Read<_>>()?),
            BOOL => Value::Bools(each.map(|_| Ok(self.number::<1>()?[0] != 0)).collect::<Read<_>>()?),
            F32 => Value::Floats(
                each.map(|_| Ok(f32::from_le_bytes(self.number()?)))
                    .collect::<Read<_>>()?,
            ),
            F64 => Value::Floats(
                each.map(|_| Ok(f64::from_le_bytes(self.number()?) as f32))
                    .collect::<Read<_>>()?,
            ),
            _ => {
                let small = |whole: i128| i32::try_from(whole).map_err(|_| format!("{whole} is too large"));
                Value::Ints(each.map(|_| self.whole(kind).and_then(small)).collect::<Read<_>>()?)
            }
        })
    }

    /// A tensor whose bytes begin at its offset, and their number.
    fn tensor(&mut self, name: &str) -> Read<(Tensor, usize)> {
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > DIMENSIONS {
            return Err(format!("{dimensions} dimensions; 1 to {DIMENSIONS} are read"));
        }
        let size = |cursor: &mut Self| {
            let size = cursor.u64()?;
            let known = usize::try_from(size).ok().filter(|size| *size > 0);
            known.ok_or_else(|| format!("a dimension of {size}"))
        };
        let mut shape = (0..dimensions).map(|_| size(self)).collect::<Read<Vec<usize>>>()?;
        shape.reverse();
        let kind = TensorType::of(self.u32()?)?;
        let offset = self.u64()?;
        let offset = usize::try_from(offset).map_err(|_| format!("begins at {offset}"))?;
        let columns = *shape.last().expect("one dimension or more");
        let rows = shape[..shape.len() - 1]
            .iter()
            .try_fold(1usize, |rows, size| rows.checked_mul(*size));
        let row = kind
            .bytes_of(columns)
            .ok_or_else(|| format!("rows of {columns} are no whole blocks of {}", kind.name))?;
        let length = rows
            .filter(|rows| rows.checked_mul(columns).is_some())
            .and_then(|rows| rows.checked_mul(row))
            .ok_or_else(|| format!("{shape:?} is too large"))?;
        let tensor = Tensor {
            name: name.into(),
            shape,
            kind,
            bytes: offset..offset,
        };
        Ok((tensor, length))
    }
}

#[cfg(test)]
mod tests;
