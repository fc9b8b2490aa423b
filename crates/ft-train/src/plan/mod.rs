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
mod job;
mod other_model;
mod packing;
mod steps;
mod succession;
mod summary;
mod tasks;
#[cfg(test)]
mod tests;
mod types;
mod variant;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, FloatDType};
use ft_data::{Sample, Tokenizer};
use ft_infer::{GenerationConfig, GenerationOptions};
use ft_model::{Checkpoint, LoadDtype, ModelConfig};
use ft_peft::{Attached, PeftConfig};

pub use advice::Advice;
pub use alignment::Alignment;
pub(crate) use base::fingerprint_with as fingerprint;
pub use bytes::Bytes;
pub use data::{DataSummary, TaskSummary};
pub(crate) use data::{checksum, spread};
pub use demand::{Demand, Moment};
pub use device::DeviceTraits;
pub use disk::Disk;
pub use packing::PackingSummary;
pub use steps::Steps;
pub use summary::PlanSummary;
pub(crate) use summary::thousands;
pub(crate) use variant::Variant;

use crate::batches::{Batches, Padding};
use crate::checkpoint::Checkpoints;
use crate::config::{AdapterSharing, BatchSize, Provenance, RunConfig};
use crate::tasks::Tasks;
use crate::{Error, Result, memory};

/// A run that is ready to go. Made by [`Plan::resolve`], consumed by [`crate::fit`].
#[derive(Debug)]
pub struct Plan {
    /// The configuration with nothing left out.
    pub config: RunConfig,
    /// Architecture of the base model.
    pub model: ModelConfig,
    /// The method with its options, from the configuration or from the adapter that `peft.from` names.
    pub peft: PeftConfig,
    /// What will train.
    pub attached: Attached,
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

    /// The plan with what stands in the way of the run itself, such as room on the disk.
    pub(crate) fn draft(mut config: RunConfig, device: &Device, traits: &DeviceTraits) -> Result<Plan> {
        checks::numbers(&config)?;
        let device = device.clone().inner();
        let cpu = traits.is_cpu();
        let folder = existing(&config.model.path, "model.path")?;
        let model = ModelConfig::from_dir(folder)?;
        let peft = job::method(&config.peft)?;
        let tokenizer = data::tokenizer(&config)?;
        let mut peft = job::with_text(peft, &tokenizer)?;
        let teacher = other_model::check(&mut config.objective.0, &tokenizer, &model)?;
        peft.method_mut().name_tokens(&|text| tokenizer.token_to_id(text))?;
        let attached = job::preview(&model, &peft)?;
        job::quantizable(&model, &config.model, &peft, &attached)?;
        let data::Loaded {
            train,
            valid,
            summary: mut data,
            tasks,
        } = data::load(&config, &tokenizer, teacher.as_ref().map(|teacher| &teacher.tokenizer))?;
        let alignment = teacher.map(|teacher| Alignment::of([&train, &valid], &teacher.model));
        let alignment = alignment.transpose()?;
        let mut chosen = None;
        let earlier = earlier_batch(&config).filter(|_| config.train.batch_size == BatchSize::Auto);
        if let Some((batch_size, accumulation)) = earlier {
            (config.train.batch_size, config.train.accumulation) = (BatchSize::Count(batch_size), accumulation);
        }
        let shape = [config.train.batch_size.count(), config.train.accumulation];
        let (course, task_ends) = tasks::course(&config, &tasks, train.len(), shape[0].saturating_mul(shape[1]))?;
        tasks::count(&mut data, &tasks, &course);
        let general = data::general(&config, &tokenizer)?;
        let padding = Padding {
            id: tokenizer.padding(),
            multiple: if cpu { 1 } else { 64 },
        };
        let (shuffle, longest_first) = (config.data.shuffle, config.train.longest_first);
        let batches = Batches::new(train, shape, shuffle, longest_first, config.train.seed, padding)
            .along(course)
            .apart(tasks::apart(&config, &tasks))
            .answering(config.objective.kind().answer_tokens());
        let [prompt, _] = job::virtual_tokens(&peft);
        let (batches, packing) = packing::packed(&config, batches, prompt, cpu);
        let steps =
            Steps::count(&config, batches.steps_per_epoch(), !valid.is_empty()).over(task_ends, batches.course());
        let batches = batches.reaching(steps.total);
        peft.method_mut().set_total_steps(steps.total)?;
        config.schedule.check(steps.base_lr, steps.shortest() as u64)?;
        let mut generation = generation(&config.generate, folder, &model)?;
        data.stop_token = checks::stop_token(batches.samples(), &tokenizer, &model, &generation);
        let dtype = match config.model.init {
            true => LoadDtype::F32,
            false => types::dtype(config.model.dtype, cpu),
        };
        let compute = types::compute(config.model.compute);
        let job = job::Job {
            device: traits,
            model: &model,
            folder,
            peft: &peft,
            attached: &attached,
            optim: &config.optim,
            objective: &config.objective,
            dtype,
            compute,
            quant: config.model.quant,
            accumulates: config.train.accumulation > 1 || tasks::adds_passes(&config),
            kept: tasks::Kept::of(&config, &tasks, &batches),
            checkpointing: config.train.checkpointing,
            in_backward: config.train.optimizer_in_backward,
            runtime: if cpu { runtime() } else { 0 },
            batch: batches.largest_micro_batch(),
            alignment,
        };
        succession::possible(job.kept.next, job.kept.tasks, &job)?;
        if config.mixture.adapter == AdapterSharing::PerTask {
            succession::separable("mixture.adapter: \"per_task\"", &job)?;
        }
        let budget = budget(&config, traits);
        let samples = shape[0] * shape[1];
        let (mut bytes, mut batches) = (job::bytes(&job)?, batches);
        if config.train.batch_size == BatchSize::Auto {
            let size = advice::largest(&job, &batches, samples, budget.ok_or_else(advice::unknown_budget)?)?;
            batches = batches.cut(size);
            let accumulates = samples > size || tasks::adds_passes(&config);
            let batch = batches.largest_micro_batch();
            bytes = job::bytes(&job::Job {
                accumulates,
                batch,
                ..job
            })?;
            chosen = Some((size, samples / size));
        }
        let size = chosen.map_or(shape[0], |(size, _)| size);
        let advice = match budget {
            Some(budget) if bytes.total() > budget => advice::advise(&job, &batches, [size, samples], budget)?,
            _ => Vec::new(),
        };
        let memory_advice = advice::memory_advice(&job);
        if let Some((size, accumulation)) = chosen {
            (config.train.batch_size, config.train.accumulation) = (BatchSize::Count(size), accumulation);
        }
        let (checkpoint, result) = job::on_disk(&job);
        let disk = match traits.is_here() {
            true => Disk::here(checkpoint, result, &steps, &config.train.out),
            false => Disk::new(checkpoint, result, &steps),
        };
        let checks::Findings { refusals, mut warnings } = checks::all(&checks::Facts {
            config: &config,
            model: &model,
            virtual_tokens: peft.method().virtual_tokens(),
            peft: &peft,
            tokenizer: &tokenizer,
            train: batches.samples(),
            valid: &valid,
            general: &general,
            steps: &steps,
            data: &data,
            generation: &generation,
            disk: &disk,
            device: traits,
            has_weights: config.model.init || Checkpoint::is_whole(folder),
        });
        generation
            .eos_token_id
            .extend(data.stop_token.filter(|stop| !generation.eos_token_id.contains(stop)));
        warnings.extend(types::compute_fits(compute, traits)?);
        let base_crc32 = base::fingerprint(folder, !config.model.init)?;
        Ok(Plan {
            config: resolved(config, &steps),
            model,
            peft,
            attached,
            steps,
            bytes,
            disk,
            budget,
            advice,
            memory_advice,
            data,
            packing,
            alignment,
            refusals,
            warnings,
            provenance: Provenance::new(traits.name()),
            base_crc32,
            device,
            cpu,
            dtype,
            compute,
            tokenizer,
            batches: Arc::new(batches),
            valid,
            tasks,
            general,
            padding,
            generation,
        })
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

/// Bytes that the whole process may take: what `train.memory` says, or on the CPU what it has and what is left.
fn budget(config: &RunConfig, device: &DeviceTraits) -> Option<u64> {
    match &config.train.memory {
        Some(text) => crate::config::bytes_of(text),
        None if device.is_cpu() && device.is_here() => Some(memory::available()? + memory::resident()?),
        None => None,
    }
}

/// Batch size and accumulation that an earlier start of this run has chosen: a resumed run takes the same steps even if the
/// machine has more or less memory left now.
fn earlier_batch(config: &RunConfig) -> Option<(usize, usize)> {
    let out = &config.train.out;
    let written = std::fs::read_to_string(out.join("config.toml")).ok()?;
    let written: toml::Table = written.parse().ok()?;
    let number = |key: &str| usize::try_from(written.get("train")?.get(key)?.as_integer()?).ok();
    Some((number("batch_size")?, number("accumulation")?)).filter(|_| !Checkpoints::of(out).steps().is_empty())
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
    if path.is_dir() {
        return Ok(path);
    }
    let what = if path.exists() {
        "is not a folder"
    } else {
        "does not exist"
    };
    Err(Error::Plan(vec![format!(
        "{key}: {} {what}; a relative path is looked up from the configuration file's folder, then from the current one",
        path.display()
    )]))
}

/// What people type over what the checkpoint says; answers for a report are kept short where nobody says otherwise.
fn generation(typed: &GenerationOptions, folder: &Path, model: &ModelConfig) -> Result<GenerationConfig> {
    const SHORT: usize = 64;
    let short = GenerationOptions {
        max_new_tokens: typed.max_new_tokens.or(Some(SHORT)),
        ..typed.clone()
    };
    Ok(GenerationConfig::from_dir(folder, &model.eos_token_ids)?.with(&short)?)
}

/// The configuration with what was counted written out.
fn resolved(mut config: RunConfig, steps: &Steps) -> RunConfig {
    let train = &mut config.train;
    let by_task = config
        .continual
        .as_ref()
        .is_some_and(|section| section.steps_per_task.is_some());
    if train.steps.is_none() && !by_task {
        train.epochs = train.epochs.or(Some(1.0));
    }
    train.eval_every = Some(steps.eval_every);
    train.save_every = Some(steps.save_every);
    train.out = std::path::absolute(&train.out).unwrap_or_else(|_| PathBuf::from(&train.out));
    config.eval.batch_size = config.eval.batch_size.or(Some(config.train.batch_size.count()));
    config
}
