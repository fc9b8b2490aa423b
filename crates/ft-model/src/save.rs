//! Writing a model as a Hugging Face folder that transformers loads with `from_pretrained`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::FloatDType;
use ft_peft::{Adaptable, AnyTensor, ModuleSlot, TargetModule};
use ft_quant::{Packed, bnb};
use safetensors::Dtype;
use safetensors::tensor::View;
use serde_json::json;

use crate::convolution;
use crate::error::{Error, Result};
use crate::loader::LoadDtype;
use crate::model::Model;

/// Bytes of tensors above which a checkpoint is split.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// A tensor to be written, read back from the device only when its turn comes.
struct Item {
    name: String,
    content: Content,
    bytes: usize,
}

#[allow(clippy::large_enum_variant)] // one per tensor of a checkpoint
enum Content {
    Floats(AnyTensor),
    /// All experts of a layer, in their order.
    Stack(Vec<AnyTensor>),
    /// A part of a layer in codes.
    Codes(bnb::Stored),
}

impl Model {
    /// Writes `config.json` and the weights into `dir`, split into shards of at most [`SHARD_BYTES`]. `Auto` keeps each
    /// tensor's type, and layers in codes as bitsandbytes stores them; the other types unpack them. Adapters must be folded
    /// before.
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
        let name = items.iter().find_map(Item::float_type).unwrap_or("float32");
        let scheme = self
            .clone()
            .target_modules()
            .iter()
            .find_map(packed)
            .map(Packed::scheme);
        let scheme = scheme.filter(|_| dtype == LoadDtype::Auto);
        write(
            &dir.join("config.json"),
            self.config().to_json(name, self.is_tied(), scheme).as_bytes(),
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
        let specs = self.config().module_specs();
        let bare = |path: &str| specs.iter().any(|spec| spec.path == path && !spec.bias);
        for mut module in model.target_modules() {
            let adapted = match &module.slot {
                ModuleSlot::Projection(p) => p.delta.is_some(),
                ModuleSlot::Embedding(e) => e.delta.is_some() || e.prompt.is_some(),
                ModuleSlot::Residual { slot, .. } => slot.adapter.is_some(),
                ModuleSlot::Attention { slot, .. } => slot.prefix.is_some(),
                _ => false,
            };
            if adapted {
                return Err(Error::NotFolded(module.path));
            }
            if matches!(module.slot, ModuleSlot::Projection(_)) && module.bias().is_some() && bare(&module.path) {
                let family = self.config().model_type.clone();
                return Err(Error::NoPlaceForBias {
                    path: module.path,
                    family,
                });
            }
            if let Some([gate, up]) = self.config().parts_of_expert(&module.path) {
                let (_, AnyTensor::Matrix(both)) = module.tensors().remove(0) else {
                    unreachable!("a projection")
                };
                let rows = both.dims()[0] / 2;
                for (path, start) in [(gate, 0), (up, rows)] {
                    let part = AnyTensor::Matrix(both.clone().narrow(0, start, rows));
                    items.push(Item::floats(&path, ("weight", part), dtype));
                }
                continue;
            }
            let codes = packed(&module).filter(|_| dtype == LoadDtype::Auto);
            if let Some(stack) = self.config().stack_of(&module.path).filter(|_| codes.is_none()) {
                for tensor in module.tensors() {
                    Item::push_stacked(&mut items, &stack, tensor, dtype);
                }
                continue;
            }
            let path = self.config().stored_path(&module.path).into_owned();
            match codes {
                None => items.extend(module.tensors().into_iter().map(|t| Item::floats(&path, t, dtype))),
                Some(packed) => {
                    items.extend(Item::codes(&path, packed));
                    let bias = module.bias().map(|bias| ("bias", AnyTensor::Vector(bias.val())));
                    items.extend(bias.map(|bias| Item::floats(&path, bias, dtype)));
                }
            }
        }
        Ok(items)
    }
}

/// The codes of a module's matrix, where it has any.
fn packed<'s>(module: &'s TargetModule<'_>) -> Option<&'s Packed> {
    match &module.slot {
        ModuleSlot::Projection(p) => p.weight.as_packed(),
        _ => None,
    }
}

impl Item {
    fn floats(path: &str, (leaf, tensor): (&str, AnyTensor), dtype: LoadDtype) -> Self {
        let tensor = cast(tensor, dtype);
        Self {
            name: format!("{path}.{leaf}"),
            bytes: tensor.dims().iter().product::<usize>() * number_bytes(&tensor),
            content: Content::Floats(tensor),
        }
    }

    /// Puts a tensor of an expert behind those of the experts before it.
    fn push_stacked(items: &mut Vec<Self>, stack: &str, (leaf, tensor): (&str, AnyTensor), dtype: LoadDtype) {
        let name = match leaf {
            "weight" => stack.to_string(),
            leaf => format!("{stack}_{leaf}"),
        };
        let one = Self::floats(stack, (leaf, tensor), dtype);
        let Content::Floats(tensor) = one.content else {
            unreachable!("floats")
        };
        match items.iter_mut().rev().find(|item| item.name == name) {
            Some(Self {
                content: Content::Stack(experts),
                bytes,
                ..
            }) => {
                experts.push(tensor);
                *bytes += one.bytes;
            }
            _ => items.push(Self {
                name,
                content: Content::Stack(vec![tensor]),
                bytes: one.bytes,
            }),
        }
    }

    fn codes(path: &str, packed: &Packed) -> impl Iterator<Item = Self> {
        let parts = bnb::write(path, &packed.encoded(), packed.dtype());
        parts.into_iter().map(|stored| Self {
            name: stored.name.clone(),
            bytes: stored.bytes.len(),
            content: Content::Codes(stored),
        })
    }

    fn float_type(&self) -> Option<&'static str> {
        match &self.content {
            Content::Floats(tensor) => Some(type_name(tensor)),
            Content::Stack(experts) => experts.first().map(type_name),
            Content::Codes(_) => None,
        }
    }

    /// The values, read back from the device.
    fn data(&self) -> Cow<'_, [u8]> {
        match &self.content {
            Content::Floats(tensor) => tensor.clone().into_data().as_bytes().to_vec().into(),
            Content::Stack(experts) => {
                let mut bytes = Vec::with_capacity(self.bytes);
                for tensor in experts {
                    bytes.extend_from_slice(tensor.clone().into_data().as_bytes());
                }
                bytes.into()
            }
            Content::Codes(stored) => stored.bytes.as_slice().into(),
        }
    }

    fn dtype(&self) -> Dtype {
        match &self.content {
            Content::Codes(stored) => match stored.dtype {
                bnb::Type::U8 => Dtype::U8,
                bnb::Type::I8 => Dtype::I8,
                bnb::Type::BF16 => Dtype::BF16,
                bnb::Type::F32 => Dtype::F32,
            },
            Content::Floats(_) | Content::Stack(_) => match self.float_type() {
                Some("bfloat16") => Dtype::BF16,
                Some("float16") => Dtype::F16,
                _ => Dtype::F32,
            },
        }
    }

    fn shape(&self) -> Vec<usize> {
        match &self.content {
            Content::Floats(tensor) => convolution::stored(&self.name, tensor.dims()),
            Content::Stack(experts) => {
                let one = experts.first().map_or(Vec::new(), AnyTensor::dims);
                [experts.len()].into_iter().chain(one).collect()
            }
            Content::Codes(stored) => stored.shape.clone(),
        }
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

struct Turn<'a> {
    item: &'a Item,
    shape: Vec<usize>,
}

impl View for Turn<'_> {
    fn dtype(&self) -> Dtype {
        self.item.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.item.data()
    }

    fn data_len(&self) -> usize {
        self.item.bytes
    }
}

fn write_shard(path: &Path, items: &[Item]) -> Result<()> {
    let views = items.iter().map(|item| {
        let shape = item.shape();
        (item.name.clone(), Turn { item, shape })
    });
    ft_peft::write_tensor_file(path, views).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })
}
