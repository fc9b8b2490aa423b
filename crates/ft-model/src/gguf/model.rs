//! Whole models: read, folded and written one module at a time.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use ft_gguf::{FileShape, FileType, Metadata, TensorInfo};
use ft_peft::methods::lora::Init;
use ft_peft::{Adaptable, Choice, Delta, ModuleSlot, PeftConfig, TargetModule, WeightDelta};
use ft_quant::{Layout, Scheme};

use super::{hparams, names};
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

/// Writes a model as a GGUF file, its matrices as `file_type` says.
///
/// The weights are read from disk, unpacked where they are in codes, merged in f32 and rounded once, one at a time: no more
/// than one of them is in memory.
///
/// # Errors
/// [`Error::Config`] and [`Error::Tensors`] for what llama.cpp's architecture does not have; those of reading the checkpoint
/// and the adapter. The file is not whole then.
pub fn write_model(source: &GgufSource<'_>, file_type: FileType, out: &Path) -> Result<()> {
    let config = ModelConfig::from_dir(source.dir)?;
    let architecture = hparams::architecture(&config, source.dir)?;
    let mut plan = Plan::new(&config, source.adapter)?;
    plan.check(architecture, source.dir)?;
    let title = out.file_stem().unwrap_or_default().to_string_lossy();
    let mut metadata = hparams::general(architecture, "model", &title, file_type);
    metadata.extend(hparams::architecture_metadata(architecture, &config));
    metadata.extend(source.tokenizer.clone());

    let checkpoint = Checkpoint::open(source.dir)?;
    let device = Device::flex();
    let mut loader = Loader::new(&checkpoint, &config, LoadDtype::F32, None, &device);
    if let Some(scheme) = source.quant {
        loader = loader.quantized(scheme);
    }
    let file = FileShape {
        layers: config.num_hidden_layers,
        tied: !plan.items.iter().any(|item| item.name == "output.weight"),
    };
    let infos: Vec<TensorInfo> = plan.items.iter().map(|item| item.info(file_type, file)).collect();
    let mut reader = Reader {
        architecture,
        config: &config,
        loader,
        modules: plan.model.target_modules(),
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
    /// The matrix or vector of the module at this index.
    Weight(usize),
    /// The bias that came out with the weight before it.
    Bias(usize),
    /// The embedding table without its adapter.
    Table(usize),
    /// Divisors of the rotary frequencies.
    RopeFactors,
}

impl Item {
    fn info(&self, file_type: FileType, file: FileShape) -> TensorInfo {
        TensorInfo::new(&self.name, &self.shape, file_type.dtype(&self.name, &self.shape, file))
    }
}

/// What is to be written, known before any weight is read.
struct Plan {
    /// The model without its weights, with the adapter in place.
    model: Model,
    items: Vec<Item>,
    /// What the adapter holds itself: whole modules and biases.
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
            let module = item.name.strip_suffix(".bias");
            module.is_some_and(|module| !module.ends_with("norm") && !names::takes_bias(architecture, module))
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
    for (index, mut module) in model.target_modules().into_iter().enumerate() {
        if module.tensors().is_empty() {
            continue;
        }
        let name = names::name(&module.path, config).expect("every place of a written architecture has a name");
        let shape = match &module.slot {
            ModuleSlot::Projection(slot) => slot.weight.dims().to_vec(),
            ModuleSlot::Embedding(slot) => slot.weight.dims().to_vec(),
            ModuleSlot::Norm(slot) => slot.weight.dims().to_vec(),
            ModuleSlot::Bias(bias) => bias.dims().to_vec(),
            ModuleSlot::Vector { vector, .. } => vector.dims().to_vec(),
            _ => unreachable!("no tensor of a family that is exported"),
        };
        push(format!("{name}.weight"), &shape, Origin::Weight(index));
        if has_bias(&mut module) {
            push(format!("{name}.bias"), &shape[..1], Origin::Bias(index));
        }
        let adapted = matches!(&module.slot, ModuleSlot::Embedding(slot)
            if slot.delta.as_ref().is_some_and(|delta| !delta.moves_head()));
        if adapted && tied && name == "token_embd" {
            // An adapter on the embeddings does not act on the head.
            push("output.weight".into(), &shape, Origin::Table(index));
        }
    }
    items
}

/// Whether a module has a bias once its adapter is folded.
fn has_bias(module: &mut TargetModule<'_>) -> bool {
    let adds = matches!(&module.slot, ModuleSlot::Projection(slot)
        if matches!(&slot.delta, Some(Delta::Lora(lora)) if lora.bias.is_some()));
    adds || module.bias().is_some()
}

/// Reads and folds.
struct Reader<'a> {
    architecture: &'static str,
    config: &'a ModelConfig,
    loader: Loader<'a>,
    modules: Vec<TargetModule<'a>>,
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
        let path = &self.modules[index].path;
        Ok(match names::interleaved(self.architecture, path, self.config) {
            Some(heads) => names::interleave(&values, heads, item.shape[0]),
            None => values,
        })
    }

    /// The folded weight of a module; its bias is kept for when it is asked for.
    fn weight(&mut self, index: usize) -> Result<Vec<f32>> {
        let path = &self.modules[index].path;
        if self.own.whole.contains(path) || self.own.biases.contains(path) {
            // The checkpoint's are there, and not wanted.
            self.loader.skip(path);
        }
        let bias = self.stored_bias(index)?;
        if let ModuleSlot::Norm(_) = &self.modules[index].slot {
            self.bias = bias;
            return self.norm(index);
        }
        let weight = self.matrix(index)?;
        let (weight, bias) = match &self.modules[index].slot {
            ModuleSlot::Projection(slot) if slot.delta.is_some() => {
                slot.delta.iter().fold((weight, bias), |(w, b), delta| delta.fold(w, b))
            }
            ModuleSlot::Embedding(slot) => (slot.delta.iter().fold(weight, |table, delta| delta.fold(table)), None),
            _ => (weight, bias),
        };
        self.bias = bias;
        Ok(host(weight))
    }

    /// The matrix `[out, in]` of a module before its adapter acts on it.
    fn matrix(&mut self, index: usize) -> Result<Tensor<2>> {
        let module = &self.modules[index];
        let whole = self.own.whole.contains(&module.path);
        let name = format!("{}.weight", module.path);
        let matrix = match &module.slot {
            ModuleSlot::Projection(slot) if whole => slot.weight.dense(),
            ModuleSlot::Embedding(slot) if whole => slot.weight.val(),
            ModuleSlot::Embedding(slot) => self.loader.matrix(&name, slot.weight.dims(), Fill::Normal),
            // A head that an adapter untied begins as the embedding table.
            ModuleSlot::Projection(slot) if module.path == HEAD && self.config.tie_word_embeddings => {
                self.loader.matrix(table(self.config), slot.weight.dims(), Fill::Normal)
            }
            ModuleSlot::Projection(slot) => {
                let [out, inner] = slot.weight.dims();
                let layout = slot.weight.layout;
                let shape = match layout {
                    Layout::OutIn => [out, inner],
                    Layout::InOut => [inner, out],
                };
                self.loader.weight(&module.path, shape, layout).dense()
            }
            _ => {
                unreachable!("no matrix there")
            }
        };
        self.loader.check()?;
        Ok(matrix)
    }

    fn norm(&mut self, index: usize) -> Result<Vec<f32>> {
        let module = &self.modules[index];
        let ModuleSlot::Norm(slot) = &module.slot else {
            unreachable!("asked for norms only")
        };
        let from_one = slot.from_one;
        let weight = match self.own.whole.contains(&module.path) {
            true => slot.weight.val(),
            false => self.vector(index, "weight", slot.weight.dims()[0]),
        };
        self.loader.check()?;
        // llama.cpp multiplies by what the file says.
        Ok(host(if from_one { weight + 1.0 } else { weight }))
    }

    /// The bias of a module before its adapter acts on it.
    fn stored_bias(&mut self, index: usize) -> Result<Option<Tensor<1>>> {
        let module = &mut self.modules[index];
        let own = self.own.whole.contains(&module.path) || self.own.biases.contains(&module.path);
        let Some(bias) = module.bias().map(|leaf| leaf.val()) else {
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
        let name = format!("{}.{leaf}", self.modules[index].path);
        self.loader.vector(&name, len, Fill::Zeros)
    }
}

/// Name of the embedding table.
pub(crate) fn table(config: &ModelConfig) -> &'static str {
    match config.blocks() {
        Blocks::Gpt2 => "transformer.wte.weight",
        Blocks::Llama => "model.embed_tokens.weight",
        Blocks::Encoder | Blocks::Modern => unreachable!("no encoder has an architecture here"),
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert_dtype(DType::F32);
    data.try_into_vec().expect("converted to f32")
}
