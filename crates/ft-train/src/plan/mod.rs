//! What a configuration means: every file opened, every number known, every refusal made, before the first step.

mod advice;
mod alignment;
mod base;
mod best_by;
mod bytes;
mod checks;
mod data;
mod demand;
mod device;
pub(crate) mod disk;
mod draft;
mod ends;
mod experts;
mod head;
mod job;
mod other_model;
mod over_ranks;
mod packing;
mod steps;
mod succession;
mod summary;
mod tasks;
#[cfg(test)]
mod tests;
mod types;
mod variant;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, FloatDType};
use ft_data::{Sample, Tokenizer};
use ft_infer::GenerationConfig;
use ft_model::{LoadDtype, ModelConfig};
use ft_peft::{Attached, PeftConfig};
use ft_ranks::Ranks;

pub use advice::Advice;
pub use alignment::Alignment;
pub(crate) use base::fingerprint_with as fingerprint;
pub use bytes::Bytes;
pub(crate) use data::spread;
pub use data::{DataSummary, TaskSummary};
pub use demand::{Demand, Moment};
pub use device::DeviceTraits;
pub use disk::Disk;
pub use head::{labels, labels_of};
pub use over_ranks::{MOST_RANKS, Network, Over, RankPlan, table as ranks_table};
pub use packing::PackingSummary;
pub use steps::Steps;
pub use summary::PlanSummary;
pub(crate) use summary::thousands;
pub(crate) use variant::Variant;

use crate::batches::{Batches, Padding};
use crate::config::{AdapterSharing, Provenance, RunConfig};
use crate::tasks::Tasks;
use crate::{Error, Result, memory};

/// A run that is ready to go. Made by [`Plan::resolve`], consumed by [`crate::fit`].
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration with nothing left out.
    pub config: RunConfig,
    /// Architecture of the base model.
    pub model: ModelConfig,
    /// The method with its options, from the configuration or from the adapter that `peft.from` names.
    pub peft: PeftConfig,
    /// What will train.
    pub attached: Attached,
    /// Shapes of the maps of hidden states that the objective trains beside.
    pub projections: Vec<[usize; 2]>,
    /// Steps and intervals.
    pub steps: Steps,
    /// Memory by part.
    pub bytes: Bytes,
    /// Room on the disk.
    pub disk: Disk,
    /// Bytes that the run may take, where that is known.
    pub budget: Option<u64>,
    /// What to change where it takes more.
    pub advice: Vec<Advice>,
    /// Samples and tokens.
    pub data: DataSummary,
    /// Whether samples share rows.
    pub packing: PackingSummary,
    /// How a teacher with another tokenizer reads them.
    pub alignment: Option<Alignment>,
    /// Things that are allowed but probably not meant.
    pub warnings: Vec<String>,
    /// Where the run happens, and what made it.
    pub provenance: Provenance,
    /// What stands in the way of the run; nothing once it is resolved.
    refusals: Vec<String>,
    /// Settings that take less memory, beside a smaller micro-batch.
    pub(crate) memory_advice: Vec<String>,
    pub(crate) device: Device,
    /// Devices of this process that take the run together.
    devices: usize,
    /// Whether that is the CPU.
    pub(crate) cpu: bool,
    pub(crate) base_crc32: u32,
    pub(crate) dtype: LoadDtype,
    /// Type of the activations, where it was typed.
    pub(crate) compute: Option<FloatDType>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) batches: Arc<Batches>,
    pub(crate) valid: Vec<Sample>,
    pub(crate) tasks: Tasks,
    /// General text.
    pub(crate) general: Vec<Sample>,
    pub(crate) padding: Padding,
    pub(crate) generation: GenerationConfig,
}

impl Plan {
    /// Opens everything that `config` names and works the run out for `device`, which `device_name` (`cpu`, `cuda:0`)
    /// stands for in the records.
    ///
    /// # Errors
    /// Unreadable files, samples that the model cannot take, targets that match nothing, and numbers that do not add up;
    /// all findings of one kind together.
    pub fn resolve(config: RunConfig, device: &Device, device_name: &str) -> Result<Plan> {
        let plan = Self::draft(config, device, &DeviceTraits::of(device, device_name))?;
        match plan.refusals.is_empty() {
            true => Ok(plan),
            false => Err(Error::Plan(plan.refusals)),
        }
    }

    /// The same run, taken by several processes together.
    ///
    /// # Errors
    /// Settings that need one process.
    pub(crate) fn deal_out(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.is_alone() {
            return Ok(());
        }
        if self.config.train.optimizer_in_backward {
            let why = format!(
                "train.optimizer_in_backward: takes each step in one forward pass, which {} ranks cannot share; leave it out, or start one process",
                ranks.size()
            );
            return Err(Error::Plan(vec![why]));
        }
        if self.config.train.shard_optimizer && self.config.mixture.adapter == AdapterSharing::PerTask {
            let why = "train.shard_optimizer: adapters of tasks (mixture.adapter = \"per_task\") have optimizers of their own, which are held whole; leave it out";
            return Err(Error::Plan(vec![why.into()]));
        }
        if self.batches.ranks() == ranks.size() {
            return Ok(());
        }
        let shared = || Error::Training("the samples of a plan are in use before its run".into());
        Arc::get_mut(&mut self.batches).ok_or_else(shared)?.over(ranks.size());
        Ok(())
    }

    /// The plan of one of so many devices of this process. The first watches over the memory of them all.
    pub(crate) fn beside(&self, device: &Device, rank: usize, devices: usize) -> Self {
        Self {
            device: device.clone().inner(),
            devices,
            budget: self.budget.filter(|_| rank == 0),
            ..self.clone()
        }
    }

    /// Bytes that the run takes where its memory is measured: on its device, or in the process.
    pub(crate) fn measurable_bytes(&self) -> u64 {
        let each = self.bytes.total() - self.bytes.runtime;
        match self.cpu {
            true => self.bytes.runtime + self.devices as u64 * each,
            false => self.bytes.total(),
        }
    }

    /// Numbers that train.
    pub fn trainable(&self) -> usize {
        job::trainable(&self.attached, &self.projections)
    }

    /// The run folder.
    pub fn out(&self) -> &Path {
        &self.config.train.out
    }

    /// The tokenizer of the run.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The training samples.
    pub fn train(&self) -> &[Sample] {
        self.batches.samples()
    }

    /// The held-out samples.
    pub fn valid(&self) -> &[Sample] {
        &self.valid
    }

    /// The device the plan was made for, without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How sample answers are generated: stop tokens include the one that the samples teach.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }
}

/// Bytes of the program in host memory. What the process held when it first planned counts: a second plan must not count the
/// first one's run, nor differ from it by chance.
fn runtime() -> u64 {
    static RUNTIME: OnceLock<u64> = OnceLock::new();
    *RUNTIME.get_or_init(|| memory::resident().unwrap_or(0) + RUN_ITSELF)
}

/// Code, stacks and records that only a run touches: what is left over on average when measured runs are taken apart
/// (`benches/plan.rs`).
const RUN_ITSELF: u64 = 8 << 20;

fn existing<'p>(path: &'p Path, key: &str) -> Result<&'p Path> {
    if path.is_dir() || ft_model::gguf::is_gguf(path) {
        return Ok(path);
    }
    let what = if path.exists() {
        "is neither a folder nor a GGUF file"
    } else {
        "does not exist"
    };
    Err(Error::Plan(vec![format!(
        "{key}: {} {what}; a relative path is looked up from the configuration file's folder, then from the current one",
        path.display()
    )]))
}
