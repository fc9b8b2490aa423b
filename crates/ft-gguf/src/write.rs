//! The file itself.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::encode::Dtype;
use crate::value::{Metadata, text};

/// Tensors begin at multiples of this (the format's default of `general.alignment`).
const ALIGNMENT: usize = 32;
/// Numbers encoded at a time: a multiple of every block.
const CHUNK: usize = 1 << 16;

/// Name, shape and type of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// `blk.0.attn_q.weight`.
    pub name: String,
    /// Rows first, as in PyTorch; the file lists the dimensions the other way round.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub dtype: Dtype,
}

impl TensorInfo {
    /// A tensor to write.
    pub fn new(name: impl Into<String>, shape: &[usize], dtype: Dtype) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            dtype,
        }
    }

    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file, without the padding after it.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.numbers())
    }
}

/// Writes a file. `values` gives the numbers of the tensor at an index, row by row, when it is its turn.
///
/// # Errors
/// Those of `values`, and of the file system.
pub fn write<E: From<io::Error>>(
    path: &Path,
    metadata: &Metadata,
    tensors: &[TensorInfo],
    mut values: impl FnMut(usize) -> Result<Vec<f32>, E>,
) -> Result<(), E> {
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&head(metadata, tensors))?;
    for (index, tensor) in tensors.iter().enumerate() {
        let values = values(index)?;
        assert_eq!(
            values.len(),
            tensor.numbers(),
            "{}: as many values as its shape says",
            tensor.name
        );
        for chunk in values.chunks(CHUNK) {
            file.write_all(&tensor.dtype.encode(chunk))?;
        }
        file.write_all(&vec![0; padding(tensor.bytes())])?;
    }
    file.flush()?;
    Ok(file.get_ref().sync_all()?)
}

/// Everything before the data, padded to where it begins.
fn head(metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    metadata.encode(&mut out);
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        let dims = tensor.shape.iter().rev();
        out.extend(dims.flat_map(|size| (*size as u64).to_le_bytes()));
        out.extend(tensor.dtype.number().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes() + padding(tensor.bytes());
    }
    out.extend(std::iter::repeat_n(0, padding(out.len())));
    out
}

/// Bytes to the next multiple of the alignment.
fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT) - bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_begins_at_an_aligned_byte_and_so_does_every_tensor() {
        let mut metadata = Metadata::default();
        metadata.put("general.architecture", "x");
        let tensors = [
            TensorInfo::new("a", &[3], Dtype::F32),
            TensorInfo::new("b", &[2, 32], Dtype::Q8_0),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let values = |index: usize| Ok::<_, io::Error>(vec![1.0; if index == 0 { 3 } else { 64 }]);
        write(&path, &metadata, &tensors, values).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let start = head(&metadata, &tensors).len();
        assert_eq!((start % ALIGNMENT, bytes.len()), (0, start + 32 + 96));
        assert_eq!(bytes[start..start + 4], 1.0f32.to_le_bytes());
        assert_eq!(bytes[start + 32 + 2], 127);
    }
}
