//! Builds a model from a checkpoint: one tensor at a time, converted or quantized while it is read.

mod unpack;

use burn::backend::{Backend, DTypeUsage, Dispatch};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use ft_quant::{Encoded, Layout, Packed, Scheme, Weight, bnb};
use safetensors::Dtype;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::numbers::Numbers;
use crate::random::Random;
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

/// Builds a model from a checkpoint, collecting every mismatch.
pub(crate) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    /// Put before every name: checkpoints of a model without any head lack `transformer.` or `bert.`.
    strip: &'static str,
    /// The output head is the embedding table.
    tied: bool,
    /// Layers that guess several tokens ahead may be there and are left out, as in transformers (Qwen 3.5).
    recurs: bool,
    /// Checkpoint path of the output head.
    head: &'static str,
    /// The output head is left out.
    headless: bool,
    /// The layers of the head that takes its place, and what they are drawn from where the checkpoint does not hold them.
    fresh: Option<(Vec<&'static str>, Random<'a>)>,
    /// What is not below this belongs to a head that is not built.
    beside: Option<&'static str>,
    dtype: LoadDtype,
    /// How projections that are not quantized yet are.
    quant: Option<Scheme>,
    device: &'a Device,
    used: Vec<String>,
    mismatches: Vec<String>,
}

impl<'a> Loader<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &ModelConfig,
        dtype: LoadDtype,
        fresh: Option<u64>,
        device: &'a Device,
    ) -> Self {
        let random = |seed| Random::new(seed, config.initializer_range(), device);
        const TABLES: [&str; 2] = ["embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight"];
        let bare = |probe: &str| checkpoint.entries.contains_key(probe);
        let strip = match &config.encoder {
            Some(encoder) if TABLES.iter().any(|table| bare(table)) => encoder.prefix,
            None if bare("wte.weight") => "transformer.",
            None if bare("embed_tokens.weight") => "model.",
            _ => "",
        };
        let layers = config.head.as_ref().map(|head| config.head_layers(head.kind).paths());
        Self {
            checkpoint,
            strip,
            tied: config.tie_word_embeddings,
            recurs: config.recurs(),
            head: config.head_path(),
            headless: config.head.is_some(),
            beside: config.encoder.as_ref().map(|encoder| encoder.prefix),
            fresh: layers.zip(fresh.map(random)),
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
                || (self.recurs && name.starts_with("mtp."))
                || (self.tied && name == "lm_head.weight")
                || (self.headless && name.starts_with("lm_head."))
                || self
                    .beside
                    .is_some_and(|base| self.strip.is_empty() && !name.starts_with(base))
                || (self.beside.is_some() && (name.contains("pooler.dense.") || name.ends_with(".position_ids")))
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

    /// Counts the tensors of a layer as used.
    pub fn skip(&mut self, path: &str) {
        let prefix = format!("{}.", path.strip_prefix(self.strip).unwrap_or(path));
        let own = self.checkpoint.entries.keys().filter(|name| name.starts_with(&prefix));
        self.used.extend(own.cloned());
    }

    /// Fails when what was asked for so far was not all there.
    pub fn check(&mut self) -> Result<()> {
        match self.mismatches.is_empty() {
            true => Ok(()),
            false => Err(Error::Tensors {
                path: self.checkpoint.dir.clone(),
                mismatches: std::mem::take(&mut self.mismatches),
            }),
        }
    }

    /// What a tensor of the head is drawn from, if the checkpoint does not hold it.
    fn drawn(&mut self, name: &str) -> Option<&mut Random<'a>> {
        let own = name.strip_prefix(self.strip).unwrap_or(name);
        let held = self.checkpoint.entries.contains_key(own);
        let (layers, random) = self.fresh.as_mut()?;
        let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
        (!held && layers.contains(&layer)).then_some(random)
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        let name = self.stored(name.strip_prefix(self.strip).unwrap_or(name));
        let old = self.old_spelling(name);
        let name = old.as_deref().unwrap_or(name);
        self.used.push(name.into());
        match self.read(name, &shape) {
            Ok(data) => {
                self.checkpoint.release(name);
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

    /// `LayerNorm.gamma` and `beta`, as checkpoints that were made from TensorFlow's have it.
    fn old_spelling(&self, name: &str) -> Option<String> {
        let spellings = [
            ("LayerNorm.weight", "LayerNorm.gamma"),
            ("LayerNorm.bias", "LayerNorm.beta"),
        ];
        let old = spellings
            .iter()
            .find_map(|(new, old)| Some(format!("{}{old}", name.strip_suffix(new)?)))?;
        let entries = &self.checkpoint.entries;
        (!entries.contains_key(name) && entries.contains_key(&old)).then_some(old)
    }

    fn read(&self, name: &str, shape: &[usize]) -> std::result::Result<TensorData, String> {
        let numbers = self.find(name, shape)?;
        Ok(numbers.data(held_as(self.dtype.of(numbers.own), self.device)))
    }

    /// The numbers of a tensor in floats.
    fn find(&self, name: &str, shape: &[usize]) -> std::result::Result<Numbers<'a>, String> {
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
        Ok(Numbers {
            bytes: self.checkpoint.bytes(entry),
            own,
            shape: &entry.shape,
            coded: entry.coded.as_ref(),
        })
    }

    /// A layer that the checkpoint holds in codes, or `None`.
    fn packed(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> ft_quant::Result<Option<Weight>> {
        let found = bnb::read(path, shape, |name| self.checkpoint.stored(name))?;
        Ok(found.map(|found| {
            found.names.iter().for_each(|name| self.checkpoint.release(name));
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
        let numbers = self.find(name, &shape)?;
        let [rows, cols] = shape;
        // The values live no longer than this: beside packed matrices, one tensor in f32 is the most there is.
        let encoded = match layout {
            Layout::OutIn => Encoded::encode(&numbers.floats(), shape, scheme),
            Layout::InOut => Encoded::encode(&numbers.transposed(), [cols, rows], scheme),
        };
        self.checkpoint.release(name);
        let dtype = FloatDType::from(self.dtype.of(numbers.own));
        let packed = Packed::new(&encoded.map_err(|e| e.to_string())?, layout, dtype, self.device);
        Ok(Weight::packed(packed, layout))
    }

    /// Takes note of what is wrong with a layer, and stands in for it.
    fn wrong(&mut self, path: &str, why: String, layout: Layout) -> Weight {
        self.skip(path);
        self.mismatches.push(why);
        Weight::new(Tensor::zeros([1, 1], self.device), layout)
    }
}

/// The type itself, or f32 where the device cannot store it, such as bf16 under WGSL.
pub fn held_as(dtype: DType, device: &Device) -> DType {
    let usage = Dispatch::dtype_usage(device.as_dispatch(), dtype);
    match usage.contains(DTypeUsage::Storage) {
        true => dtype,
        false => DType::F32,
    }
}

impl LoadDtype {
    /// The type in which numbers of type `own` are held.
    pub fn of(self, own: DType) -> DType {
        match self {
            LoadDtype::F32 => DType::F32,
            LoadDtype::Bf16 => DType::BF16,
            LoadDtype::F16 => DType::F16,
            LoadDtype::Auto => own,
        }
    }
}

impl Source for Loader<'_> {
    fn matrix(&mut self, name: &str, shape: [usize; 2], fill: Fill) -> Tensor<2> {
        match self.drawn(name) {
            Some(random) => random.matrix(name, shape, fill),
            None => self.tensor(name, shape),
        }
    }

    fn vector(&mut self, name: &str, len: usize, fill: Fill) -> Tensor<1> {
        match self.drawn(name) {
            Some(random) => random.vector(name, len, fill),
            None => self.tensor(name, [len]),
        }
    }

    fn weight(&mut self, path: &str, shape: [usize; 2], layout: Layout) -> Weight {
        if let Some(random) = self.drawn(&format!("{path}.weight")) {
            return Weight::new(random.matrix(path, shape, Fill::Normal), layout);
        }
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
        if self.checkpoint.is_mxfp4(own) {
            let weight = self.unpack(own, out_in, layout);
            return weight.unwrap_or_else(|why| self.wrong(own, why, layout));
        }
        let name = format!("{own}.weight");
        match self.quant.filter(|_| own != self.head) {
            None => Weight::new(self.tensor(&format!("{path}.weight"), shape), layout),
            Some(scheme) => {
                let weight = self.quantize(&name, shape, layout, scheme);
                weight.unwrap_or_else(|why| self.wrong(own, format!("{name}: {why}"), layout))
            }
        }
    }

    fn joined(&mut self, _: &str, parts: [&str; 2], [rows, columns]: [usize; 2]) -> Weight {
        let half = [rows / 2, columns];
        let Some(scheme) = self.quant else {
            let [gate, up] = parts.map(|path| self.weight(path, half, Layout::OutIn).dense());
            return Weight::new(Tensor::cat(vec![gate, up], 0), Layout::OutIn);
        };
        let mut values = Vec::with_capacity(rows * columns);
        let mut held = DType::F32;
        for path in parts {
            let name = format!("{path}.weight");
            self.used.push(name.clone());
            match self.find(&name, &half) {
                Ok(numbers) => {
                    values.extend(numbers.floats());
                    held = numbers.own;
                    self.checkpoint.release(&name);
                }
                Err(why) => return self.wrong(path, format!("{name}: {why}"), Layout::OutIn),
            }
        }
        let dtype = FloatDType::from(self.dtype.of(held));
        match Encoded::encode(&values, [rows, columns], scheme) {
            Ok(encoded) => Weight::packed(Packed::new(&encoded, Layout::OutIn, dtype, self.device), Layout::OutIn),
            Err(why) => self.wrong(parts[0], why.to_string(), Layout::OutIn),
        }
    }
}
