//! What trains, and what it costs, from the architecture alone: no weight is loaded.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{DType, FloatDType};
use ft_data::Tokenizer;
use ft_model::{Checkpoint, LoadDtype, ModelConfig};
use ft_optim::OptimConfig;
use ft_peft::{Attached, Kind, ModuleSpec, PeftConfig};
use ft_quant::Scheme;
use safetensors::Dtype;

use super::bytes::Bytes;
use super::other_model::OtherBytes;
use super::tasks::Kept;
use super::{Alignment, Demand, DeviceTraits};
use crate::config::{Checkpointing, ModelSection, PeftSection};
use crate::continual::Next;
use crate::objectives::ObjectiveConfig;
use crate::{Error, Result};

/// The method of the section, read from the adapter folder where it names one.
pub(super) fn method(section: &PeftSection) -> Result<PeftConfig> {
    match section {
        PeftSection::Method(config) => Ok(config.clone()),
        PeftSection::From(from) => {
            let folder = &from.from;
            if ft_peft::adapter::encoder_is_missing(folder)? {
                return Err(Error::Plan(vec![format!(
                    "peft.from: {} has no {}, without which this adapter can be used but not trained on: PEFT's file holds \
                     only what its encoder makes; take a folder that ft wrote, or start anew with peft.method",
                    folder.display(),
                    ft_peft::adapter::ENCODER
                )]));
            }
            Ok(ft_peft::adapter::read_config(folder)?)
        }
    }
}

/// The method with the tokens of the text that it starts from, if any.
pub(super) fn with_text(peft: PeftConfig, tokenizer: &Tokenizer) -> Result<PeftConfig> {
    let Some((key, text)) = peft.init_text() else {
        return Ok(peft);
    };
    let ids = tokenizer
        .encode(text, true)
        .map_err(|e| Error::Plan(vec![format!("{key}: {e}")]))?;
    Ok(peft.with_init_ids(ids))
}

/// What [`ft_peft::attach`] will make trainable.
pub(super) fn preview(model: &ModelConfig, peft: &PeftConfig) -> Result<Attached> {
    Ok(ft_peft::preview(&model.module_specs(), peft)?)
}

/// Whether the base can be held as `model.quant` says while these modules train.
///
/// # Errors
/// A base in other codes, and full fine-tuning of matrices that would be in codes.
pub(super) fn quantizable(
    model: &ModelConfig,
    section: &ModelSection,
    peft: &PeftConfig,
    attached: &Attached,
) -> Result<()> {
    let Some(scheme) = section.quant else { return Ok(()) };
    ft_model::check_quantizable(model, scheme, &section.path)?;
    let specs = model.module_specs();
    let packed = specs.iter().filter(|spec| spec.kind == Kind::Linear);
    let trained: Vec<&str> = packed
        .map(|spec| spec.path.as_str())
        .filter(|path| attached.choice.whole.iter().any(|p| p == path))
        .collect();
    match (peft, trained.first()) {
        (PeftConfig::Full(_), Some(first)) => Err(Error::Plan(vec![format!(
            "model.quant: peft.method = \"full\" would train {} of the matrices that are held in codes (the first is {first}), \
             and codes cannot be trained; leave model.quant out, or use a method with adapters",
            trained.len()
        )])),
        _ => Ok(()),
    }
}

/// What the memory depends on.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub device: &'a DeviceTraits,
    pub model: &'a ModelConfig,
    pub folder: &'a Path,
    pub peft: &'a PeftConfig,
    pub attached: &'a Attached,
    /// Shapes of what the objective trains beside.
    pub projections: &'a [[usize; 2]],
    pub optim: &'a OptimConfig,
    pub objective: &'a ObjectiveConfig,
    pub dtype: LoadDtype,
    /// The type that is typed for the activations.
    pub compute: Option<FloatDType>,
    pub quant: Option<Scheme>,
    pub accumulates: bool,
    /// By a strategy against forgetting.
    pub kept: Kept,
    pub checkpointing: Checkpointing,
    /// Gradients are used as soon as they are there.
    pub in_backward: bool,
    /// What the process holds already.
    pub runtime: u64,
    /// Rows and columns of the largest micro-batch.
    pub batch: (usize, usize),
    /// Where the teacher has another tokenizer.
    pub alignment: Option<Alignment>,
}

/// Numbers that train: of the method, and of the maps of hidden states that the objective trains beside.
pub(super) fn trainable(attached: &Attached, projections: &[[usize; 2]]) -> usize {
    attached.parameters + projections.iter().map(|[rows, cols]| rows * cols).sum::<usize>()
}

impl Job<'_> {
    fn trainable(&self) -> usize {
        trainable(self.attached, self.projections)
    }

    /// What trains, by path, with its shapes.
    fn trained_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = ft_peft::trained_shapes(&self.model.module_specs(), self.peft, &self.attached.choice);
        let projections = self.projections.iter().enumerate();
        shapes.extend(projections.map(|(number, shape)| (format!("hidden_projections.{number}"), shape.to_vec())));
        shapes
    }
}

/// Memory by part.
pub(super) fn bytes(job: &Job) -> Result<Bytes> {
    let numbers = job.trainable();
    let beside = job.peft.method().numbers_beside() * numbers;
    let (rows, width) = job.batch;
    let mut demand = Demand::new(job.model, job.peft, job.attached, numbers);
    demand.accumulates = job.accumulates;
    demand.checkpointing = job.checkpointing;
    demand.in_backward = job.in_backward;
    let vocabulary = job.model.vocab_size;
    demand.distills = match job.objective {
        ObjectiveConfig::Distill(distill) if distill.cache.is_some() => [vocabulary, 0],
        ObjectiveConfig::Distill(_) if job.model.head.is_some() => [0, 0],
        ObjectiveConfig::Distill(_) => [vocabulary, job.alignment.map_or(vocabulary, |a| a.teacher_vocabulary)],
        _ if job.kept.distills => [vocabulary; 2],
        _ => [0, 0],
    };
    let stored = Stored::new(job)?;
    demand.half = half(job, &stored);
    let [prompt, prefix] = virtual_tokens(job.peft);
    let peak = demand.peak(rows, prompt + width);
    let step = Bytes {
        weights: weights(job, &stored),
        adapters: FLOAT * (job.kept.adapters * (numbers - checkpoint_numbers(job))) as u64,
        // Those of earlier tasks' adapters wait for the last one's.
        gradients: peak.gradients + FLOAT * ((job.kept.adapters - 1) * numbers) as u64,
        optimizer: job.kept.adapters as u64 * states(job) + FLOAT * beside as u64,
        activations: peak.activations + prefixes(job.model, rows, prefix),
        logits: peak.logits,
        scratch: demand.scratch(rows, prompt + width),
        continual: FLOAT * (numbers * job.kept.copies()) as u64 + job.kept.remembered,
        other_model: 0,
        saving: 0,
        runtime: job.runtime,
    };
    let step = OtherBytes::of(job)?.beside(step);
    Ok(step.or_saving(copies(job)))
}

/// Whether every matrix that is adapted is held in f32.
pub(super) fn held_in_f32(job: &Job) -> bool {
    let Ok(stored) = Stored::new(job) else { return false };
    let mut adapted = job.attached.choice.adapted.iter();
    adapted.all(|path| stored.bytes(&format!("{path}.weight")) == FLOAT)
}

/// Bytes of a model that does not train, as it is held.
pub(super) fn held(job: &Job) -> Result<u64> {
    Ok(weights(job, &Stored::new(job)?))
}

/// Bytes of a checkpoint and of the result.
pub(super) fn on_disk(job: &Job) -> (u64, u64) {
    let trained = FLOAT * job.attached.parameters as u64;
    let whole = FLOAT * job.model.num_parameters() as u64;
    let (tasks, next, adapters) = (job.kept.tasks as u64, job.kept.next, job.kept.adapters as u64);
    // In a checkpoint, and at the end.
    let (beside_state, result) = match (job.peft, next) {
        (PeftConfig::Full(_), _) => (whole, whole),
        // Of several adapters, checkpoints hold what a resume needs alone.
        (_, Next::Continue) if adapters > 1 => (0, adapters * trained),
        (_, Next::Continue) => (trained, trained),
        (_, Next::Fold) => (0, whole),
        (_, Next::Freeze) => (tasks * trained, tasks * trained),
        (_, Next::Separate) => (trained, tasks * trained),
    };
    let beside = FLOAT * (job.peft.method().numbers_beside() * job.attached.parameters) as u64;
    let states: u64 = state_bytes(job).iter().sum();
    let earlier = next.saved(job.kept.tasks);
    let copies = trained * (job.kept.copies.kept + earlier) as u64 + job.kept.remembered;
    let in_checkpoint = FLOAT * job.trainable() as u64;
    (
        adapters * (in_checkpoint + states) + beside + copies + beside_state + JSON,
        result,
    )
}

/// State, manifest and adapter configuration, generously.
const JSON: u64 = 64 * 1024;

/// What the optimizer keeps on the device of the run.
fn states(job: &Job) -> u64 {
    let mut bytes = state_bytes(job);
    if job.optim.pages() && !job.device.is_cpu() {
        // Three at a time: the one in use, the one before and the one after it.
        bytes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        bytes.truncate(3);
    }
    bytes.iter().sum()
}

/// Bytes of the optimizer's state, tensor by tensor of what trains.
fn state_bytes(job: &Job) -> Vec<u64> {
    let shapes = job.trained_shapes();
    let state = |(path, shape): &(String, Vec<usize>)| -> u64 {
        let tensors = job.optim.state(path, shape);
        tensors.iter().map(|tensor| tensor.bytes() as u64).sum()
    };
    shapes.iter().map(state).collect()
}

/// What is read back while a checkpoint is written: the state of one tensor, and a part of it once more as bytes.
fn copies(job: &Job) -> u64 {
    let shapes = job.trained_shapes();
    let largest = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>());
    let state = state_bytes(job).into_iter().max().unwrap_or(0);
    (FLOAT * largest.max().unwrap_or(0) as u64) + state.max(FLOAT)
}

/// f32: what trains, and its gradients.
const FLOAT: u64 = 4;

/// Trainable numbers that the checkpoint itself holds.
pub(super) fn checkpoint_numbers(job: &Job) -> usize {
    let numbers = |spec: &ModuleSpec| {
        let ([rows, cols], bias) = (spec.dims, if spec.bias { spec.dims[0] } else { 0 });
        match () {
            // A tied head gets a table of its own when it trains.
            () if spec.kind == Kind::TiedHead => 0,
            () if job.attached.choice.whole.contains(&spec.path) => rows * cols + bias,
            () if job.attached.choice.biases.contains(&spec.path) => bias,
            () => 0,
        }
    };
    job.model.module_specs().iter().map(numbers).sum()
}

/// Columns before the text: those that go through every layer, and those that are only keys and values.
pub(super) fn virtual_tokens(peft: &PeftConfig) -> [usize; 2] {
    let n = peft.method().virtual_tokens();
    match peft {
        PeftConfig::PrefixTuning(_) | PeftConfig::PTuningV2(_) => [0, n],
        _ => [n, 0],
    }
}

/// Bytes of the keys and values of a prefix of `tokens`, which every row of every block gets a copy of.
fn prefixes(model: &ModelConfig, rows: usize, tokens: usize) -> u64 {
    let width = 2 * model.num_key_value_heads * model.head_dim;
    FLOAT * (rows * tokens * width * model.num_hidden_layers) as u64
}

/// The base as it is held: what trains in f32, the rest in the chosen type.
fn weights(job: &Job, stored: &Stored) -> u64 {
    let packed = packed(job);
    let bytes = |spec: &ft_model::TensorSpec| {
        let numbers = spec.shape.iter().product::<usize>() as u64;
        let trains = job
            .attached
            .choice
            .whole
            .iter()
            .any(|p| spec.name.strip_prefix(p.as_str()).is_some_and(is_leaf));
        let own = stored.file.as_ref().and_then(|file| codes(file, &spec.name));
        match own.or_else(|| packed.get(&spec.name).copied()) {
            Some(codes) if !trains => codes,
            _ => numbers * if trains { 4 } else { stored.bytes(&spec.name) },
        }
    };
    job.model.tensors().iter().map(bytes).sum()
}

/// What frozen weights are loaded as.
struct Stored<'a> {
    device: &'a DeviceTraits,
    dtype: LoadDtype,
    /// What `config.json` says.
    stated: DType,
    /// Where the file's types count and the file is there.
    file: Option<Checkpoint>,
}

impl<'a> Stored<'a> {
    fn new(job: &Job<'a>) -> Result<Self> {
        let types_count = job.dtype == LoadDtype::Auto || job.model.is_quantized();
        let file = match types_count && (Checkpoint::is_whole(job.folder) || job.model.is_quantized()) {
            true => Some(Checkpoint::open(job.folder)?),
            false => None,
        };
        Ok(Self {
            device: job.device,
            dtype: job.dtype,
            stated: job.model.stated_dtype().unwrap_or(DType::F32),
            file,
        })
    }

    /// Bytes of a number of the tensor `name`.
    fn bytes(&self, name: &str) -> u64 {
        let own = |file: &Checkpoint| {
            if file.is_mxfp4(name) {
                return Some(DType::BF16);
            }
            let (_, entry) = file.entries().find(|(n, _)| *n == name)?;
            match entry.dtype {
                Dtype::BF16 => Some(DType::BF16),
                Dtype::F16 => Some(DType::F16),
                _ => None,
            }
        };
        let own = match &self.file {
            Some(file) => own(file).unwrap_or(DType::F32),
            None => self.stated,
        };
        self.device.held_as(self.dtype.of(own)).size() as u64
    }
}

/// Whether activations have 16 bits: what [`Model::suited_compute`](ft_model::Model::suited_compute) will choose where nothing is
/// typed, on a device that computes in 16 bits.
fn half(job: &Job, stored: &Stored) -> bool {
    match job.compute {
        Some(dtype) => dtype != FloatDType::F32,
        None if job.device.is_cpu() => false,
        None => {
            let mut tables = job
                .model
                .module_specs()
                .into_iter()
                .filter(|p| p.kind == Kind::Embedding);
            tables
                .next()
                .is_some_and(|table| stored.bytes(&format!("{}.weight", table.path)) == 2)
        }
    }
}

/// Bytes of the matrices that are quantized on load, by name: every projection but the output head.
fn packed(job: &Job) -> HashMap<String, u64> {
    let Some(scheme) = job.quant else { return HashMap::new() };
    let specs = job
        .model
        .module_specs()
        .into_iter()
        .filter(|spec| spec.kind == Kind::Linear);
    let of_module = |spec: ModuleSpec| {
        let names = job.model.matrix_names(&spec.path);
        let bytes = scheme.bytes(spec.dims) as u64 / names.len() as u64;
        names.into_iter().map(move |name| (name, bytes))
    };
    specs.flat_map(of_module).collect()
}

/// Bytes of the codes and scales of a matrix that the checkpoint holds quantized.
fn codes(file: &Checkpoint, name: &str) -> Option<u64> {
    let path = name.strip_suffix(".weight")?;
    let bytes = |name: &str| {
        let (_, entry) = file.entries().find(|(n, _)| *n == name)?;
        Some(entry.shape.iter().product::<usize>() as u64 * entry.dtype.bitsize() as u64 / 8)
    };
    let scales = bytes(&format!("{name}.absmax")).or_else(|| bytes(&format!("{path}.SCB")))?;
    Some(bytes(name)? + scales + bytes(&format!("{name}.nested_absmax")).unwrap_or(0))
}

fn is_leaf(rest: &str) -> bool {
    [".weight", ".bias", ".sinks"].contains(&rest)
}
