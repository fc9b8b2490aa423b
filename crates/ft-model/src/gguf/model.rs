//! Whole models: read, folded and written one place at a time.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use ft_gguf::{Dtype, Metadata, TensorInfo};
use ft_peft::methods::lora::Init;
use ft_peft::{Adaptable, Choice, Delta, PeftConfig, Place, Site, WeightDelta};
use ft_quant::{Layout, Scheme};

use super::{dtype_for, hparams, names};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::families::Blocks;
use crate::loader::{LoadDtype, Loader};
use crate::model::{HEAD, Model};
use crate::source::{Fill, Source};

/// What is written of a model.
#[derive(Clone, Debug)]
pub struct GgufSource<'a> {
    /// Checkpoint folder.
    pub dir: &'a Path,
    /// How a run quantized the checkpoint while reading it: the adapter was made for the rounded weights.
    pub quant: Option<Scheme>,
    /// Adapter folder, to be merged.
    pub adapter: Option<&'a Path>,
    /// `tokenizer.*`.
    pub tokenizer: Metadata,
}

/// Writes a model as a GGUF file, its matrices as `dtype`.
///
/// The weights are read from disk, unpacked where they are in codes, merged in f32 and rounded once, one at a time: no more
/// than one of them is in memory.
///
/// # Errors
/// [`Error::Config`] and [`Error::Tensors`] for what llama.cpp's architecture does not have; those of reading the checkpoint
/// and the adapter. The file is not whole then.
pub fn write_model(source: &GgufSource<'_>, dtype: Dtype, out: &Path) -> Result<()> {
    let config = ModelConfig::from_dir(source.dir)?;
    let architecture = hparams::architecture(&config, source.dir)?;
    let mut plan = Plan::new(&config, source.adapter)?;
    plan.check(architecture, source.dir)?;
    let title = out.file_stem().unwrap_or_default().to_string_lossy();
    let mut metadata = hparams::general(architecture, "model", &title, dtype);
    metadata.extend(hparams::architecture_metadata(architecture, &config));
    metadata.extend(source.tokenizer.clone());

    let checkpoint = Checkpoint::open(source.dir)?;
    let device = Device::flex();
    let mut loader = Loader::new(&checkpoint, config.tie_word_embeddings, LoadDtype::F32, &device);
    if let Some(scheme) = source.quant {
        loader = loader.quantized(scheme);
    }
    let infos: Vec<TensorInfo> = plan.items.iter().map(|item| item.info(dtype)).collect();
    let mut reader = Reader {
        architecture,
        config: &config,
        loader,
        sites: plan.model.sites(),
        own: &plan.own,
        bias: None,
    };
    let written = ft_gguf::write(out, &metadata, &infos, |index| {
        reader.values(&plan.items[index]).map_err(Failed::Model)
    });
    match written {
        Ok(()) => reader.loader.finish(),
        Err(Failed::Model(e)) => Err(e),
        Err(Failed::Io(source)) => Err(Error::Io {
            path: out.into(),
            source,
        }),
    }
}

/// What can end the writing.
enum Failed {
    Model(Error),
    Io(std::io::Error),
}

impl From<std::io::Error> for Failed {
    fn from(source: std::io::Error) -> Self {
        Failed::Io(source)
    }
}

/// A tensor of the file.
struct Item {
    name: String,
    shape: Vec<usize>,
    origin: Origin,
}

/// Where its values are.
#[derive(Clone, Copy)]
enum Origin {
    /// The matrix or vector of the place at this index.
    Weight(usize),
    /// The bias that came out with the weight before it.
    Bias(usize),
    /// The embedding table without its adapter.
    Table(usize),
    /// Divisors of the rotary frequencies.
    RopeFactors,
}

impl Item {
    fn info(&self, dtype: Dtype) -> TensorInfo {
        TensorInfo::new(&self.name, &self.shape, dtype_for(&self.name, &self.shape, dtype))
    }
}

/// What is to be written, known before any weight is read.
struct Plan {
    /// The model without its weights, with the adapter in place.
    model: Model,
    items: Vec<Item>,
    /// What the adapter holds itself: whole places and biases.
    own: Choice,
}

impl Plan {
    fn new(config: &ModelConfig, adapter: Option<&Path>) -> Result<Self> {
        let mut model = config.hollow();
        let mut own = Choice::default();
        if let Some(adapter) = adapter {
            let (peft, attached) = ft_peft::adapter::load(adapter, &mut model)?;
            refuse(&peft, adapter)?;
            ft_peft::mergeable(&mut model)?;
            own = attached.choice;
        }
        let items = items(&mut model, config);
        Ok(Self { model, items, own })
    }

    /// Whether the file can hold every bias.
    fn check(&self, architecture: &str, dir: &Path) -> Result<()> {
        let homeless = |item: &&Item| {
            let place = item.name.strip_suffix(".bias");
            place.is_some_and(|place| !place.ends_with("norm") && !names::takes_bias(architecture, place))
        };
        let mismatches: Vec<String> = self
            .items
            .iter()
            .filter(homeless)
            .map(|item| format!("{}: llama.cpp's {architecture} has no bias there", item.name))
            .collect();
        match mismatches.is_empty() {
            true => Ok(()),
            false => Err(Error::Tensors {
                path: dir.into(),
                mismatches,
            }),
        }
    }
}

/// Adapters that mean something only beside weights that they moved when they were made.
fn refuse(peft: &PeftConfig, adapter: &Path) -> Result<()> {
    match peft {
        PeftConfig::Lora(lora) if matches!(lora.init, Init::Pissa | Init::Olora) => Err(Error::Format {
            path: adapter.into(),
            why: "init_lora_weights moved the base weights; merge it first (ft merge) and export the result".into(),
        }),
        _ => Ok(()),
    }
}

fn items(model: &mut Model, config: &ModelConfig) -> Vec<Item> {
    let mut items = Vec::new();
    let mut push = |name: String, shape: &[usize], origin| {
        items.push(Item {
            name,
            shape: shape.to_vec(),
            origin,
        });
    };
    if let Some(factors) = hparams::rope_factors(config) {
        push("rope_freqs.weight".into(), &[factors.len()], Origin::RopeFactors);
    }
    let tied = model.is_tied();
    for (index, mut site) in model.sites().into_iter().enumerate() {
        if site.tensors().is_empty() {
            continue;
        }
        let name = names::name(&site.path).expect("every place of a written architecture has a name");
        let shape = match &site.place {
            Place::Projection(slot) => slot.weight.dims().to_vec(),
            Place::Embedding(slot) => slot.weight.dims().to_vec(),
            Place::Norm(slot) => slot.weight.dims().to_vec(),
            Place::Residual { .. } | Place::Attention { .. } => unreachable!("they have no tensors"),
        };
        push(format!("{name}.weight"), &shape, Origin::Weight(index));
        if has_bias(&mut site) {
            push(format!("{name}.bias"), &shape[..1], Origin::Bias(index));
        }
        let adapted = matches!(&site.place, Place::Embedding(slot)
            if slot.delta.as_ref().is_some_and(|delta| !delta.moves_head()));
        if adapted && tied && name == "token_embd" {
            // An adapter on the embeddings does not act on the head.
            push("output.weight".into(), &shape, Origin::Table(index));
        }
    }
    items
}

/// Whether a place has a bias once its adapter is folded.
fn has_bias(site: &mut Site<'_>) -> bool {
    let adds = matches!(&site.place, Place::Projection(slot)
        if matches!(&slot.delta, Some(Delta::Lora(lora)) if lora.bias.is_some()));
    adds || site.bias().is_some()
}

/// Reads and folds.
struct Reader<'a> {
    architecture: &'static str,
    config: &'a ModelConfig,
    loader: Loader<'a>,
    sites: Vec<Site<'a>>,
    own: &'a Choice,
    /// That of the last weight.
    bias: Option<Tensor<1>>,
}

impl Reader<'_> {
    /// The values of a tensor, in the order of the file.
    fn values(&mut self, item: &Item) -> Result<Vec<f32>> {
        let (values, index) = match item.origin {
            Origin::RopeFactors => return Ok(hparams::rope_factors(self.config).expect("listed because it is there")),
            Origin::Table(index) => (host(self.matrix(index)?), index),
            Origin::Weight(index) => (self.weight(index)?, index),
            Origin::Bias(index) => (host(self.bias.take().expect("comes after its weight")), index),
        };
        let path = &self.sites[index].path;
        Ok(match names::interleaved(self.architecture, path, self.config) {
            Some(heads) => names::interleave(&values, heads, item.shape[0]),
            None => values,
        })
    }

    /// The folded weight of a place; its bias is kept for when it is asked for.
    fn weight(&mut self, index: usize) -> Result<Vec<f32>> {
        let path = &self.sites[index].path;
        if self.own.whole.contains(path) || self.own.biases.contains(path) {
            // The checkpoint's are there, and not wanted.
            self.loader.skip(path);
        }
        let bias = self.stored_bias(index)?;
        if let Place::Norm(_) = &self.sites[index].place {
            self.bias = bias;
            return self.norm(index);
        }
        let weight = self.matrix(index)?;
        let (weight, bias) = match &self.sites[index].place {
            Place::Projection(slot) if slot.delta.is_some() => {
                slot.delta.iter().fold((weight, bias), |(w, b), delta| delta.fold(w, b))
            }
            Place::Embedding(slot) => (slot.delta.iter().fold(weight, |table, delta| delta.fold(table)), None),
            _ => (weight, bias),
        };
        self.bias = bias;
        Ok(host(weight))
    }

    /// The matrix `[out, in]` of a place before its adapter acts on it.
    fn matrix(&mut self, index: usize) -> Result<Tensor<2>> {
        let site = &self.sites[index];
        let whole = self.own.whole.contains(&site.path);
        let name = format!("{}.weight", site.path);
        let matrix = match &site.place {
            Place::Projection(slot) if whole => slot.weight.dense(),
            Place::Embedding(slot) if whole => slot.weight.val(),
            Place::Embedding(slot) => self.loader.matrix(&name, slot.weight.dims(), Fill::Normal),
            // A head that an adapter untied begins as the embedding table.
            Place::Projection(slot) if site.path == HEAD && self.config.tie_word_embeddings => {
                self.loader.matrix(table(self.config), slot.weight.dims(), Fill::Normal)
            }
            Place::Projection(slot) => {
                let [out, inner] = slot.weight.dims();
                let layout = slot.weight.layout;
                let shape = match layout {
                    Layout::OutIn => [out, inner],
                    Layout::InOut => [inner, out],
                };
                self.loader.weight(&site.path, shape, layout).dense()
            }
            Place::Norm(_) | Place::Residual { .. } | Place::Attention { .. } => unreachable!("no matrix there"),
        };
        self.loader.check()?;
        Ok(matrix)
    }

    fn norm(&mut self, index: usize) -> Result<Vec<f32>> {
        let site = &self.sites[index];
        let Place::Norm(slot) = &site.place else {
            unreachable!("asked for norms only")
        };
        let weight = match self.own.whole.contains(&site.path) {
            true => slot.weight.val(),
            false => self.vector(index, "weight", slot.weight.dims()[0]),
        };
        self.loader.check()?;
        Ok(host(weight))
    }

    /// The bias of a place before its adapter acts on it.
    fn stored_bias(&mut self, index: usize) -> Result<Option<Tensor<1>>> {
        let site = &mut self.sites[index];
        let own = self.own.whole.contains(&site.path) || self.own.biases.contains(&site.path);
        let Some(bias) = site.bias().map(|leaf| leaf.val()) else {
            return Ok(None);
        };
        let bias = match own {
            true => bias,
            false => self.vector(index, "bias", bias.dims()[0]),
        };
        self.loader.check()?;
        Ok(Some(bias))
    }

    fn vector(&mut self, index: usize, leaf: &str, len: usize) -> Tensor<1> {
        let name = format!("{}.{leaf}", self.sites[index].path);
        self.loader.vector(&name, len, Fill::Zeros)
    }
}

/// Name of the embedding table.
fn table(config: &ModelConfig) -> &'static str {
    match config.blocks() {
        Blocks::Gpt2 => "transformer.wte.weight",
        Blocks::Llama => "model.embed_tokens.weight",
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert_dtype(DType::F32);
    data.try_into_vec().expect("converted to f32")
}
