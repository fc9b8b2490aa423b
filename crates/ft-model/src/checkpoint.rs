//! Reading safetensors checkpoints: memory-mapped, single or sharded, one tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use ft_quant::{Encoded, Layout, Packed, Scheme, Weight, bnb};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::source::{Fill, Source};

/// The number type in which a model is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadDtype {
    /// f32.
    #[default]
    F32,
    /// bf16.
    Bf16,
    /// f16.
    F16,
    /// The checkpoint's own type.
    Auto,
}

/// The tensors of a checkpoint folder.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<Mmap>,
    entries: BTreeMap<String, Entry>,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number type in the file.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
    file: usize,
    bytes: Range<usize>,
}

impl Checkpoint {
    /// Opens `dir/model.safetensors`, or the shards that `dir/model.safetensors.index.json` names.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            dir: dir.into(),
            files: Vec::new(),
            entries: BTreeMap::new(),
        };
        for file in files_of(dir)? {
            checkpoint.add_file(&file)?;
        }
        Ok(checkpoint)
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

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file][entry.bytes.clone()]
    }

    /// A tensor of a type that quantized layers are made of.
    fn stored(&self, name: &str) -> Option<bnb::Stored> {
        let entry = self.entries.get(name)?;
        let dtype = match entry.dtype {
            Dtype::U8 => bnb::Type::U8,
            Dtype::I8 => bnb::Type::I8,
            Dtype::F32 => bnb::Type::F32,
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

/// Builds a model from a checkpoint, collecting every mismatch.
pub(crate) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    /// Put before every name: older GPT-2 checkpoints lack `transformer.`.
    strip: &'static str,
    /// The output head is the embedding table.
    tied: bool,
    dtype: LoadDtype,
    /// How projections that are not quantized yet are.
    quant: Option<Scheme>,
    device: &'a Device,
    used: Vec<String>,
    mismatches: Vec<String>,
}

impl<'a> Loader<'a> {
    pub fn new(checkpoint: &'a Checkpoint, tied: bool, dtype: LoadDtype, device: &'a Device) -> Self {
        let bare = checkpoint.entries.contains_key("wte.weight");
        let strip = if bare { "transformer." } else { "" };
        Self {
            checkpoint,
            strip,
            tied,
            dtype,
            quant: None,
            device,
            used: Vec::new(),
            mismatches: Vec::new(),
        }
    }

    /// Quantizes projections while they are read, one at a time; the output head stays as it is.
    pub fn quantized(self, scheme: Scheme) -> Self {
        Self {
            quant: Some(scheme),
            ..self
        }
    }

    /// The mismatches, with the tensors that nothing asked for.
    pub fn finish(mut self) -> Result<()> {
        let ignored = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq")
                || name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias")
                || (self.tied && name == "lm_head.weight")
        };
        for name in self
            .checkpoint
            .entries
            .keys()
            .filter(|name| !self.used.contains(name) && !ignored(name))
        {
            self.mismatches.push(format!("{name}: unexpected"));
        }
        if self.mismatches.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors {
            path: self.checkpoint.dir.clone(),
            mismatches: self.mismatches,
        })
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        let name = self.stored(name.strip_prefix(self.strip).unwrap_or(name));
        self.used.push(name.into());
        match self.read(name, &shape, self.dtype) {
            Ok(data) => {
                let dtype = data.dtype();
                Tensor::from_data(data, (self.device, dtype))
            }
            Err(why) => {
                self.mismatches.push(format!("{name}: {why}"));
                Tensor::zeros([1; D], self.device)
            }
        }
    }

    /// Under which name a tensor is stored: a tied checkpoint may hold the shared table as the head alone.
    fn stored<'n>(&self, name: &'n str) -> &'n str {
        const TABLES: [&str; 3] = ["model.embed_tokens.weight", "transformer.wte.weight", "wte.weight"];
        let entries = &self.checkpoint.entries;
        let head_alone = !entries.contains_key(name) && entries.contains_key("lm_head.weight");
        match self.tied && head_alone && TABLES.contains(&name) {
            true => "lm_head.weight",
            false => name,
        }
    }

    fn read(&self, name: &str, shape: &[usize], dtype: LoadDtype) -> std::result::Result<TensorData, String> {
        let entry = self.checkpoint.entries.get(name).ok_or("missing")?;
        if entry.shape != shape {
            return Err(format!("{shape:?} expected, found {:?}", entry.shape));
        }
        let own = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            other => {
                return Err(format!(
                    "numbers of type {other:?} are not supported; F32, BF16 and F16 are"
                ));
            }
        };
        Ok(convert(self.checkpoint.bytes(entry), own, dtype.of(own), shape))
    }

    /// A layer that the checkpoint holds in codes, or `None`.
    fn packed(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> ft_quant::Result<Option<Weight>> {
        let found = bnb::read(path, shape, |name| self.checkpoint.stored(name))?;
        Ok(found.map(|found| {
            self.used.extend(found.names);
            let own = found.dtype.unwrap_or(FloatDType::F32);
            let dtype = FloatDType::from(self.dtype.of(own.into()));
            Weight::packed(Packed::new(&found.encoded, layout, dtype, self.device), layout)
        }))
    }

    /// A layer that the checkpoint holds in floats, quantized.
    fn quantize(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
        scheme: Scheme,
    ) -> std::result::Result<Weight, String> {
        self.used.push(name.into());
        let values = self.read(name, &shape, LoadDtype::F32)?;
        let values = values.try_to_vec::<f32>().map_err(|e| format!("{e:?}"))?;
        let own = match self.checkpoint.entries[name].dtype {
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            _ => DType::F32,
        };
        let [rows, cols] = shape;
        let encoded = match layout {
            Layout::OutIn => Encoded::encode(&values, shape, scheme),
            Layout::InOut => Encoded::encode(&transposed(&values, rows, cols), [cols, rows], scheme),
        };
        let dtype = FloatDType::from(self.dtype.of(own));
        let packed = Packed::new(&encoded.map_err(|e| e.to_string())?, layout, dtype, self.device);
        Ok(Weight::packed(packed, layout))
    }

    /// Takes note of what is wrong with a layer, and stands in for it.
    fn wrong(&mut self, path: &str, why: String, layout: Layout) -> Weight {
        let prefix = format!("{path}.");
        let own = self.checkpoint.entries.keys().filter(|name| name.starts_with(&prefix));
        self.used.extend(own.cloned());
        self.mismatches.push(why);
        Weight::new(Tensor::zeros([1, 1], self.device), layout)
    }
}

impl LoadDtype {
    /// The type in which numbers of type `own` are held.
    fn of(self, own: DType) -> DType {
        match self {
            LoadDtype::F32 => DType::F32,
            LoadDtype::Bf16 => DType::BF16,
            LoadDtype::F16 => DType::F16,
            LoadDtype::Auto => own,
        }
    }
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let column = |c: usize| (0..rows).map(move |r| values[r * cols + c]);
    (0..cols).flat_map(column).collect()
}

impl Source for Loader<'_> {
    fn matrix(&mut self, name: &str, shape: [usize; 2], _: Fill) -> Tensor<2> {
        self.tensor(name, shape)
    }

    fn vector(&mut self, name: &str, len: usize, _: Fill) -> Tensor<1> {
        self.tensor(name, [len])
    }

    fn weight(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> Weight {
        let own = path.strip_prefix(self.strip).unwrap_or(path);
        let out_in = match layout {
            Layout::OutIn => shape,
            Layout::InOut => [shape[1], shape[0]],
        };
        match self.packed(own, out_in, layout) {
            Ok(Some(weight)) => return weight,
            Ok(None) => {}
            Err(why) => return self.wrong(own, why.to_string(), layout),
        }
        let name = format!("{own}.weight");
        match self.quant.filter(|_| own != crate::model::HEAD) {
            None => Weight::new(self.tensor(&format!("{path}.weight"), shape), layout),
            Some(scheme) => {
                let weight = self.quantize(&name, shape, layout, scheme);
                weight.unwrap_or_else(|why| self.wrong(own, format!("{name}: {why}"), layout))
            }
        }
    }
}

/// Little-endian `bytes` of type `from` as tensor data of type `to`.
fn convert(bytes: &[u8], from: DType, to: DType, shape: &[usize]) -> TensorData {
    let shape = shape.to_vec();
    if from == to {
        return TensorData::from_bytes_vec(bytes.to_vec(), shape, to);
    }
    let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let floats: Vec<f32> = match from {
        DType::BF16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        DType::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    };
    match to {
        DType::BF16 => TensorData::new(floats.into_iter().map(bf16::from_f32).collect::<Vec<_>>(), shape),
        DType::F16 => TensorData::new(floats.into_iter().map(f16::from_f32).collect::<Vec<_>>(), shape),
        _ => TensorData::new(floats, shape),
    }
}
