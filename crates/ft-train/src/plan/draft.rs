//! The stages of a plan.
//!
//! ```text
//! opened: what the configuration names ─> laid out: samples in steps ─> weighed: memory and disk ─> judged: refusals and warnings
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use ft_data::{Sample, Tokenizer};
use ft_infer::{GenerationConfig, GenerationOptions};
use ft_model::{Checkpoint, LoadDtype, ModelConfig};
use ft_peft::{Attached, PeftConfig};

use super::other_model::{self, Reader};
use super::{
    Advice, Alignment, Bytes, DataSummary, DeviceTraits, Disk, PackingSummary, Plan, Steps, advice, base, checks, data,
    ends, existing, experts, head, job, packing, runtime, succession, tasks, types,
};
use crate::batches::{Batches, Padding};
use crate::checkpoint::Checkpoints;
use crate::config::{AdapterSharing, BatchSize, Provenance, RunConfig};
use crate::tasks::Tasks;
use crate::{Result, memory};

impl Plan {
    /// The plan with what stands in the way of the run itself, such as room on the disk.
    pub(crate) fn draft(mut config: RunConfig, device: &Device, traits: &DeviceTraits) -> Result<Plan> {
        checks::numbers(&config)?;
        let mut opened = Opened::new(&mut config)?;
        let laid = LaidOut::new(&mut config, &mut opened, traits.is_cpu())?;
        let weighed = Weighed::new(&config, &opened, &laid, traits)?;
        let batches = match weighed.chosen {
            None => laid.batches,
            Some([size, accumulation]) => {
                let train = &mut config.train;
                (train.batch_size, train.accumulation) = (BatchSize::Count(size), accumulation);
                laid.batches.cut(size)
            }
        };
        let folder = &config.model.path;
        let checks::Findings { refusals, mut warnings } = checks::all(&checks::Facts {
            config: &config,
            model: &opened.model,
            virtual_tokens: opened.peft.method().virtual_tokens(),
            peft: &opened.peft,
            tokenizer: &opened.tokenizer,
            train: batches.samples(),
            valid: &laid.valid,
            general: &laid.general,
            steps: &laid.steps,
            data: &laid.data,
            generation: &opened.generation,
            disk: &weighed.disk,
            device: traits,
            has_weights: config.model.init || Checkpoint::is_whole(folder),
        });
        let mut generation = opened.generation;
        let stop = laid.data.stop_token;
        generation
            .eos_token_id
            .extend(stop.filter(|stop| !generation.eos_token_id.contains(stop)));
        warnings.extend(types::compute_fits(weighed.compute, traits)?);
        Ok(Plan {
            base_crc32: base::fingerprint(folder, !config.model.init)?,
            config: resolved(config, &laid.steps),
            model: opened.model,
            peft: opened.peft,
            attached: opened.attached,
            projections: opened.projections,
            steps: laid.steps,
            bytes: weighed.bytes,
            disk: weighed.disk,
            budget: weighed.budget,
            advice: weighed.advice,
            memory_advice: weighed.memory_advice,
            data: laid.data,
            packing: laid.packing,
            alignment: laid.alignment,
            refusals,
            warnings,
            provenance: Provenance::new(traits.name()),
            device: device.clone().inner(),
            devices: 1,
            cpu: traits.is_cpu(),
            dtype: weighed.dtype,
            compute: weighed.compute,
            tokenizer: opened.tokenizer,
            batches: Arc::new(batches),
            valid: laid.valid,
            tasks: laid.tasks,
            general: laid.general,
            padding: laid.padding,
            generation,
        })
    }
}

/// What the configuration names beside its samples.
struct Opened {
    model: ModelConfig,
    tokenizer: Tokenizer,
    peft: PeftConfig,
    attached: Attached,
    projections: Vec<[usize; 2]>,
    /// A teacher that is to read the samples by its own tokenizer.
    teacher: Option<Reader>,
    generation: GenerationConfig,
}

impl Opened {
    /// Settles how a student is compared with its teacher, too.
    fn new(config: &mut RunConfig) -> Result<Self> {
        let folder = existing(&config.model.path, "model.path")?;
        let model = ModelConfig::from_dir(folder)?;
        let generation = generation(&config.generate, folder, &model)?;
        let peft = job::method(&config.peft)?;
        let tokenizer = data::tokenizer(config)?;
        let model = head::placed(config, model, &tokenizer)?;
        let model = experts::placed(config, model, &peft)?;
        let mut peft = job::with_text(peft, &tokenizer)?;
        let teacher = other_model::check(&mut config.objective.0, &tokenizer, &model)?;
        peft.method_mut().name_tokens(&|text| tokenizer.token_to_id(text))?;
        let attached = job::preview(&model, &peft)?;
        job::quantizable(&model, &config.model, &peft, &attached)?;
        Ok(Self {
            projections: other_model::projections(&config.objective, &model)?,
            model,
            tokenizer,
            peft,
            attached,
            teacher,
            generation,
        })
    }
}

/// The samples in steps.
struct LaidOut {
    batches: Batches,
    valid: Vec<Sample>,
    /// General text.
    general: Vec<Sample>,
    tasks: Tasks,
    data: DataSummary,
    packing: PackingSummary,
    alignment: Option<Alignment>,
    padding: Padding,
    steps: Steps,
}

impl LaidOut {
    /// Tells the method how many steps there are, too.
    fn new(config: &mut RunConfig, opened: &mut Opened, cpu: bool) -> Result<Self> {
        let teacher = opened.teacher.as_ref();
        let loaded = data::load(config, &opened.tokenizer, teacher.map(|teacher| &teacher.tokenizer))?;
        let data::Loaded {
            train,
            valid,
            summary: mut data,
            tasks,
        } = loaded;
        let alignment = teacher.map(|teacher| Alignment::of([&train, &valid], &teacher.model));
        let earlier = earlier_batch(config).filter(|_| config.train.batch_size == BatchSize::Auto);
        if let Some((batch_size, accumulation)) = earlier {
            (config.train.batch_size, config.train.accumulation) = (BatchSize::Count(batch_size), accumulation);
        }
        let shape = [config.train.batch_size.count(), config.train.accumulation];
        let (course, task_ends) = tasks::course(config, &tasks, train.len(), shape[0].saturating_mul(shape[1]))?;
        tasks::count(&mut data, &tasks, &course);
        let padding = Padding {
            id: opened.tokenizer.padding(),
            multiple: if cpu { 1 } else { 64 },
        };
        let (shuffle, longest_first) = (config.data.shuffle, config.train.longest_first);
        let batches = Batches::new(train, shape, shuffle, longest_first, config.train.seed, padding)
            .along(course)
            .apart(tasks::apart(config, &tasks))
            .answering(config.objective.kind().answer_tokens());
        let [prompt, _] = job::virtual_tokens(&opened.peft);
        let (batches, packing) = packing::packed(config, batches, prompt);
        let steps =
            Steps::count(config, batches.steps_per_epoch(), !valid.is_empty()).over(task_ends, batches.course());
        let batches = batches.reaching(steps.total);
        opened.peft.method_mut().set_total_steps(steps.total)?;
        config.schedule.check(steps.base_lr, steps.shortest() as u64)?;
        data.stop_token = ends::stop_token(batches.samples(), &opened.tokenizer, &opened.model, &opened.generation);
        Ok(Self {
            general: data::general(config, &opened.tokenizer)?,
            alignment: alignment.transpose()?,
            batches,
            valid,
            tasks,
            data,
            packing,
            padding,
            steps,
        })
    }
}

/// What the run takes.
struct Weighed {
    bytes: Bytes,
    disk: Disk,
    /// Bytes that the run may take, where that is known.
    budget: Option<u64>,
    /// Batch size and accumulation, where they were to be chosen.
    chosen: Option<[usize; 2]>,
    advice: Vec<Advice>,
    memory_advice: Vec<String>,
    dtype: LoadDtype,
    compute: Option<FloatDType>,
}

impl Weighed {
    fn new(config: &RunConfig, opened: &Opened, laid: &LaidOut, traits: &DeviceTraits) -> Result<Self> {
        let (cpu, batches) = (traits.is_cpu(), &laid.batches);
        let dtype = match config.model.init {
            true => LoadDtype::F32,
            false => types::dtype(config.model.dtype, cpu),
        };
        let compute = types::compute(config.model.compute);
        let shape = [config.train.batch_size.count(), config.train.accumulation];
        let samples = shape[0] * shape[1];
        let accumulates = |size: usize| samples > size || tasks::adds_passes(config);
        let job = job::Job {
            device: traits,
            model: &opened.model,
            folder: &config.model.path,
            peft: &opened.peft,
            attached: &opened.attached,
            projections: &opened.projections,
            optim: &config.optim,
            objective: &config.objective,
            dtype,
            compute,
            quant: config.model.quant,
            accumulates: accumulates(shape[0]),
            kept: tasks::Kept::of(config, &laid.tasks, batches),
            checkpointing: config.train.checkpointing,
            in_backward: config.train.optimizer_in_backward,
            runtime: if cpu { runtime() } else { 0 },
            batch: batches.largest_micro_batch(),
            alignment: laid.alignment,
        };
        succession::possible(job.kept.next, job.kept.tasks, &job)?;
        if config.mixture.adapter == AdapterSharing::PerTask {
            succession::separable("mixture.adapter: \"per_task\"", &job)?;
        }
        let budget = budget(config, traits);
        let (bytes, size) = match config.train.batch_size {
            BatchSize::Auto => {
                let size = advice::largest(&job, batches, samples, budget.ok_or_else(advice::unknown_budget)?)?;
                let smaller = job::Job {
                    accumulates: accumulates(size),
                    batch: batches.largest(size),
                    ..job
                };
                (job::bytes(&smaller)?, size)
            }
            _ => (job::bytes(&job)?, shape[0]),
        };
        let advice = match budget {
            Some(budget) if bytes.total() > budget => advice::advise(&job, batches, [size, samples], budget)?,
            _ => Vec::new(),
        };
        let (checkpoint, result) = job::on_disk(&job);
        Ok(Self {
            disk: match traits.is_here() {
                true => Disk::here(checkpoint, result, &laid.steps, &config.train.out),
                false => Disk::new(checkpoint, result, &laid.steps),
            },
            chosen: (config.train.batch_size == BatchSize::Auto).then_some([size, samples / size]),
            memory_advice: advice::memory_advice(&job),
            bytes,
            budget,
            advice,
            dtype,
            compute,
        })
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
    // They follow from the objective.
    config.data.labels = None;
    config.eval.batch_size = config.eval.batch_size.or(Some(config.train.batch_size.count()));
    config
}
