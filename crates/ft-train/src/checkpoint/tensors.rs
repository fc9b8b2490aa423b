//! Named tensors in one safetensors file, read back bit by bit.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{Error, Result};

/// Writes the tensors under their names.
pub fn write_tensors(path: &Path, tensors: &[(String, TensorData)]) -> Result<()> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let view = dtype(data.dtype())
            .ok_or_else(|| format!("{name}: {:?} has no safetensors type", data.dtype()))
            .and_then(|d| {
                TensorView::new(d, data.shape().to_vec(), data.as_bytes()).map_err(|e| format!("{name}: {e}"))
            })
            .map_err(|why| Error::checkpoint(path, why))?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize_to_file(views, None, path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(source) => Error::io(path, source),
        other => Error::checkpoint(path, other.to_string()),
    })
}

/// Reads every tensor of the file, in the order of the file.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, TensorData)>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| Error::checkpoint(path, e.to_string()))?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let kind = burn_dtype(view.dtype())
                .ok_or_else(|| Error::checkpoint(path, format!("{name}: unexpected type {:?}", view.dtype())))?;
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

fn dtype(of: DType) -> Option<Dtype> {
    TYPES.iter().find(|(burn, _)| *burn == of).map(|(_, file)| *file)
}

fn burn_dtype(of: Dtype) -> Option<DType> {
    TYPES.iter().find(|(_, file)| *file == of).map(|(burn, _)| *burn)
}
