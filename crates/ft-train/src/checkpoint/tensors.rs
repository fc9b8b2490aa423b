//! Named tensors in one safetensors file, read back bit by bit.

use std::borrow::Cow;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use ft_optim::SavedTensor;
use safetensors::tensor::{TensorView, View};
use safetensors::{Dtype, SafeTensors};

use crate::{Error, Result};

/// Writes the tensors under their names.
pub fn write_tensors(path: &Path, tensors: &[(String, TensorData)]) -> Result<()> {
    write(path, views(path, tensors)?)
}

fn views<'a>(path: &Path, tensors: &'a [(String, TensorData)]) -> Result<Vec<(&'a str, TensorView<'a>)>> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let kind = dtype_of(path, name, data.dtype())?;
        let view = TensorView::new(kind, data.shape().to_vec(), data.as_bytes())
            .map_err(|e| Error::checkpoint(path, format!("{name}: {e}")))?;
        views.push((name.as_str(), view));
    }
    Ok(views)
}

/// The bytes of a file with these tensors, for another process.
pub(crate) fn tensors_to_bytes(tensors: &[(String, TensorData)]) -> Result<Vec<u8>> {
    let path = Path::new("tensors of a rank");
    let written = safetensors::serialize(views(path, tensors)?, None);
    written.map_err(|e| Error::checkpoint(path, e.to_string()))
}

/// Writes the tensors under their names, each read back when its turn comes.
pub fn write_saved<'a>(path: &Path, tensors: &'a [SavedTensor<'a>]) -> Result<()> {
    let turn = |tensor: &'a SavedTensor<'a>| {
        let kind = dtype_of(path, &tensor.name, tensor.dtype)?;
        Ok((tensor.name.as_str(), Turn(tensor, kind)))
    };
    let turns: Vec<_> = tensors.iter().map(turn).collect::<Result<_>>()?;
    write(path, turns)
}

struct Turn<'a>(&'a SavedTensor<'a>, Dtype);

impl View for Turn<'_> {
    fn dtype(&self) -> Dtype {
        self.1
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.read().as_bytes().to_vec().into()
    }

    fn data_len(&self) -> usize {
        self.0.shape.iter().product::<usize>() * self.0.dtype.size()
    }
}

fn write(path: &Path, tensors: Vec<(&str, impl View)>) -> Result<()> {
    safetensors::serialize_to_file(tensors, None, path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(source) => Error::io(path, source),
        other => Error::checkpoint(path, other.to_string()),
    })
}

/// Reads every tensor of the file, in the order of the file.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, TensorData)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    tensors_from_bytes(&bytes).map_err(|why| Error::checkpoint(path, why))
}

/// The tensors of such a file; what is wrong with it otherwise.
pub(crate) fn tensors_from_bytes(bytes: &[u8]) -> std::result::Result<Vec<(String, TensorData)>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let kind = burn_dtype(view.dtype()).ok_or_else(|| format!("{name}: unexpected type {:?}", view.dtype()))?;
            let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), kind);
            Ok((name, data))
        })
        .collect()
}

/// Types an optimizer keeps.
const TYPES: &[(DType, Dtype)] = &[
    (DType::F32, Dtype::F32),
    (DType::BF16, Dtype::BF16),
    (DType::F16, Dtype::F16),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::U8, Dtype::U8),
    (DType::I8, Dtype::I8),
];

fn dtype_of(path: &Path, name: &str, of: DType) -> Result<Dtype> {
    let found = TYPES.iter().find(|(burn, _)| *burn == of).map(|(_, file)| *file);
    found.ok_or_else(|| Error::checkpoint(path, format!("{name}: {of:?} has no safetensors type")))
}

fn burn_dtype(of: Dtype) -> Option<DType> {
    TYPES.iter().find(|(_, file)| *file == of).map(|(burn, _)| *burn)
}
