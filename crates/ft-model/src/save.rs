//! Writing a model as a Hugging Face folder that transformers loads with `from_pretrained`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{FloatDType, TensorData};
use ft_peft::{Adaptable, AnyTensor, Place};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::checkpoint::LoadDtype;
use crate::error::{Error, Result};
use crate::model::Model;

/// Bytes of tensors above which a checkpoint is split.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// A tensor to be written, read back from the device only when its shard is.
struct Item {
    name: String,
    tensor: AnyTensor,
    bytes: usize,
}

impl Model {
    /// Writes `config.json` and the weights into `dir`, split into shards of at most [`SHARD_BYTES`]. `Auto` keeps each
    /// tensor's type. Adapters must be folded before.
    pub fn save(&self, dir: &Path, dtype: LoadDtype) -> Result<()> {
        self.save_sharded(dir, dtype, SHARD_BYTES)
    }

    /// [`save`](Self::save) with another shard size.
    pub fn save_sharded(&self, dir: &Path, dtype: LoadDtype, shard_bytes: usize) -> Result<()> {
        let items = self.items(dtype)?;
        std::fs::create_dir_all(dir).map_err(|source| Error::Io {
            path: dir.into(),
            source,
        })?;
        let name = type_name(&items[0].tensor);
        write(
            &dir.join("config.json"),
            self.config().to_json(name, self.is_tied()).as_bytes(),
        )?;
        let shards = split(items, shard_bytes);
        if let [shard] = shards.as_slice() {
            return write_shard(&dir.join("model.safetensors"), shard);
        }
        let mut map = BTreeMap::new();
        let mut total = 0;
        for (i, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
            write_shard(&dir.join(&file), shard)?;
            map.extend(shard.iter().map(|item| (item.name.clone(), file.clone())));
            total += shard.iter().map(|item| item.bytes).sum::<usize>();
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        let text = serde_json::to_string_pretty(&index).expect("a JSON map serializes");
        write(&dir.join("model.safetensors.index.json"), text.as_bytes())
    }

    fn items(&self, dtype: LoadDtype) -> Result<Vec<Item>> {
        let mut model = self.clone();
        let mut items = Vec::new();
        for mut site in model.sites() {
            let adapted = match &site.place {
                Place::Projection(p) => p.delta.is_some(),
                Place::Embedding(e) => e.delta.is_some(),
                Place::Norm(_) => false,
            };
            if adapted {
                return Err(Error::NotFolded(site.path));
            }
            for (leaf, tensor) in site.tensors() {
                let tensor = cast(tensor, dtype);
                let bytes = tensor.dims().iter().product::<usize>() * number_bytes(&tensor);
                items.push(Item {
                    name: format!("{}.{leaf}", site.path),
                    tensor,
                    bytes,
                });
            }
        }
        Ok(items)
    }
}

fn cast(tensor: AnyTensor, dtype: LoadDtype) -> AnyTensor {
    let to = match dtype {
        LoadDtype::Auto => return tensor,
        LoadDtype::F32 => FloatDType::F32,
        LoadDtype::Bf16 => FloatDType::BF16,
        LoadDtype::F16 => FloatDType::F16,
    };
    match tensor {
        AnyTensor::Vector(t) => AnyTensor::Vector(t.detach().cast(to)),
        AnyTensor::Matrix(t) => AnyTensor::Matrix(t.detach().cast(to)),
    }
}

fn dtype_of(tensor: &AnyTensor) -> burn::tensor::DType {
    match tensor {
        AnyTensor::Vector(t) => t.dtype(),
        AnyTensor::Matrix(t) => t.dtype(),
    }
}

fn type_name(tensor: &AnyTensor) -> &'static str {
    match dtype_of(tensor) {
        burn::tensor::DType::BF16 => "bfloat16",
        burn::tensor::DType::F16 => "float16",
        _ => "float32",
    }
}

fn number_bytes(tensor: &AnyTensor) -> usize {
    if type_name(tensor) == "float32" { 4 } else { 2 }
}

/// Fills shards in order; a tensor larger than a shard gets one of its own.
fn split(items: Vec<Item>, shard_bytes: usize) -> Vec<Vec<Item>> {
    let mut shards: Vec<Vec<Item>> = vec![Vec::new()];
    let mut filled = 0;
    for item in items {
        if filled + item.bytes > shard_bytes && filled > 0 {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += item.bytes;
        shards.last_mut().expect("starts with one shard").push(item);
    }
    shards
}

fn write_shard(path: &Path, items: &[Item]) -> Result<()> {
    let data: Vec<TensorData> = items.iter().map(|item| item.tensor.clone().into_data()).collect();
    let views = items.iter().zip(&data).map(|(item, data)| {
        let dtype = match type_name(&item.tensor) {
            "bfloat16" => Dtype::BF16,
            "float16" => Dtype::F16,
            _ => Dtype::F32,
        };
        let view = TensorView::new(dtype, item.tensor.dims(), data.as_bytes());
        (item.name.clone(), view.expect("shape and bytes come from one tensor"))
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(source) => Error::Io {
            path: path.into(),
            source,
        },
        other => Error::Format {
            path: path.into(),
            why: other.to_string(),
        },
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })
}
