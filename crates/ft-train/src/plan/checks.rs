//! What is refused, and what is warned about, before a run starts. Every finding is collected.

use std::collections::HashSet;

use ft_data::{Sample, Tokenizer, passing};
use ft_infer::GenerationConfig;
use ft_model::ModelConfig;
use ft_peft::PeftConfig;
use ft_peft::methods::trainable_tokens::Token;

use super::{DataSummary, DeviceTraits, Disk, Steps, ends};
use crate::config::{BatchSize, Checkpointing, Dtype, PeftSection, RunConfig};
use crate::{Error, Result, memory};

/// Numbers that no file is needed to judge.
pub(super) fn numbers(config: &RunConfig) -> Result<()> {
    let train = &config.train;
    let mut wrong = Vec::new();
    let counts = [
        ("train.batch_size", Some(train.batch_size.count())),
        ("train.accumulation", Some(train.accumulation)),
        ("train.steps", train.steps),
        ("train.log_every", Some(train.log_every)),
        ("train.eval_every", train.eval_every),
        ("train.save_every", train.save_every),
        ("train.keep", Some(train.keep)),
        ("train.timeout", Some(train.timeout as usize)),
        (
            "train.early_stopping.patience",
            train.early_stopping.map(|e| e.patience),
        ),
        ("eval.batch_size", config.eval.batch_size),
        ("eval.max_samples", config.eval.max_samples),
        ("eval.max_answers", config.eval.max_answers),
    ];
    let zero = counts.iter().filter(|(_, count)| *count == Some(0));
    wrong.extend(zero.map(|(key, _)| format!("{key}: must be at least 1")));
    if let Some(text) = train
        .memory
        .as_ref()
        .filter(|text| crate::config::bytes_of(text).is_none())
    {
        wrong.push(format!(
            "train.memory: \"{text}\" is no amount of memory; write \"8GB\" or \"512MB\""
        ));
    }
    if train.steps.is_some() && train.epochs.is_some() {
        wrong.push("train.steps and train.epochs exclude each other; keep one".into());
    }
    if train.epochs.is_some_and(|e| !e.is_finite() || e <= 0.0) {
        wrong.push("train.epochs: must be a positive number".into());
    }
    if train
        .early_stopping
        .is_some_and(|e| !e.threshold.is_finite() || e.threshold < 0.0)
    {
        wrong.push("train.early_stopping.threshold: must be a number of at least 0".into());
    }
    if config.model.init && !matches!(&config.peft, PeftSection::Method(PeftConfig::Full(_))) {
        wrong.push("model.init: random weights that stay frozen learn nothing; use peft.method = \"full\"".into());
    }
    if let Some(scheme) = &config.model.quant {
        let key = |e: &ft_quant::Error| e.key().map_or("model.quant".into(), |key| format!("model.quant.{key}"));
        wrong.extend(scheme.check().err().map(|e| format!("{}: {e}", key(&e))));
        if config.model.init {
            wrong.push(
                "model.quant: random weights that train are not quantized; leave out model.quant or model.init".into(),
            );
        }
    }
    wrong.extend(config.objective.kind().check());
    wrong.extend(super::packing::refusal(config));
    wrong.extend(crate::config::tasks::check(config));
    wrong.extend(crate::config::continual::check(config));
    wrong.extend(super::best_by::refusal(config));
    if train.optimizer_in_backward {
        wrong.extend(in_backward(config));
    }
    wrong.extend(
        ft_optim::LossScale::new(train.loss_scale)
            .err()
            .map(|e| format!("train.loss_scale: {e}")),
    );
    let unknown = config.eval.metrics.iter().filter_map(|name| ft_eval::find(name).err());
    wrong.extend(unknown.map(|e| format!("eval.metrics: {e}")));
    wrong.extend(config.optim.check().err().map(|e| e.to_string()));
    wrong.extend(config.data.check().err().map(|e| e.to_string()));
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Error::Plan(wrong))
    }
}

/// What an optimizer step inside the backward pass cannot be had with.
fn in_backward(config: &RunConfig) -> Vec<String> {
    let train = &config.train;
    let auto = train.batch_size == BatchSize::Auto;
    let wrong = [
        (
            train.checkpointing == Checkpointing::Off,
            "keeps no gradient from being there while the whole backward pass runs; set train.checkpointing = 1",
        ),
        (
            config.optim.clip().is_some(),
            "cannot clip by the norm of all gradients, which must be known before the first is used; set optim.clip = 0",
        ),
        (
            train.accumulation > 1 || auto,
            "uses gradients before those of further forward passes could be added; set train.accumulation = 1 and \
             train.batch_size to a number",
        ),
        (
            config.model.compute == Dtype::F16,
            "cannot leave a step out whose gradients leave f16; set model.compute = \"bf16\" or \"f32\"",
        ),
    ];
    let wrong = wrong.iter().filter(|(wrong, _)| *wrong);
    wrong
        .map(|(_, why)| format!("train.optimizer_in_backward: {why}"))
        .collect()
}

/// What the checks look at.
pub(super) struct Facts<'a> {
    pub config: &'a RunConfig,
    pub model: &'a ModelConfig,
    /// Columns that the method puts before every text.
    pub virtual_tokens: usize,
    pub peft: &'a PeftConfig,
    pub tokenizer: &'a Tokenizer,
    pub train: &'a [Sample],
    pub valid: &'a [Sample],
    pub general: &'a [Sample],
    pub steps: &'a Steps,
    pub data: &'a DataSummary,
    pub generation: &'a GenerationConfig,
    pub disk: &'a Disk,
    pub device: &'a DeviceTraits,
    /// Weights are there to be loaded.
    pub has_weights: bool,
}

impl Facts<'_> {
    /// Positions that are left for text.
    fn positions(&self) -> usize {
        self.model.max_position_embeddings.saturating_sub(self.virtual_tokens)
    }

    /// What takes the others.
    fn beside(&self) -> String {
        match self.virtual_tokens {
            0 => String::new(),
            n => format!(" beside {n} virtual tokens"),
        }
    }
}

/// What the checks found.
pub(super) struct Findings {
    pub refusals: Vec<String>,
    pub warnings: Vec<String>,
}

/// Every finding at once.
pub(super) fn all(facts: &Facts) -> Findings {
    let mut refusals = Vec::new();
    let mut warnings = Vec::new();
    let mut opinions = Vec::new();
    samples("data.train", facts.train, facts, &mut refusals);
    samples("data.valid", facts.valid, facts, &mut refusals);
    samples("eval.general", facts.general, facts, &mut refusals);
    if facts.positions() == 0 {
        let (n, all) = (facts.virtual_tokens, facts.model.max_position_embeddings);
        refusals.push(format!(
            "peft.num_virtual_tokens: {n} virtual tokens leave no position of the model's {all} for text"
        ));
    }
    if facts.device.is_here() && !facts.has_weights {
        refusals.push(format!(
            "model.path: {} holds no weights (model.safetensors, or all files of model.safetensors.index.json); download or copy \
             them",
            facts.config.model.path.display()
        ));
    }
    ends::check(facts, &mut opinions, &mut warnings);
    room(facts, &mut opinions);
    lengths(facts, &mut warnings);
    leaks(facts, &mut warnings);
    tokens(facts, &mut warnings);
    evaluation(facts, &mut refusals, &mut warnings);
    optimizer(facts, &mut refusals, &mut warnings);
    match facts.config.train.force {
        true => warnings.extend(opinions),
        false => refusals.extend(opinions.iter().map(|o| format!("{o} (--force starts anyway)"))),
    }
    Findings { refusals, warnings }
}

/// Whether the checkpoints find room.
fn room(facts: &Facts, opinions: &mut Vec<String>) {
    if let (Some(false), Some(free)) = (facts.disk.fits(), facts.disk.available) {
        opinions.push(format!(
            "train.out: the run needs {} on the disk ({} for each checkpoint), and {} are free; make room, lower train.keep, or \
             choose another train.out",
            memory::human(facts.disk.needed),
            memory::human(facts.disk.checkpoint),
            memory::human(free)
        ));
    }
}

/// Samples that the model cannot take, and sets that teach nothing.
fn samples(key: &str, samples: &[Sample], facts: &Facts, refusals: &mut Vec<String>) {
    const SHOWN: usize = 5;
    let model = facts.model;
    if samples.is_empty() {
        if key == "data.train" {
            refusals.push(format!("{key}: no sample is left to train on"));
        }
        return;
    }
    let unknown = |s: &Sample| s.ids.iter().copied().find(|id| *id as usize >= model.vocab_size);
    let strangers: Vec<_> = passing(samples)
        .enumerate()
        .filter_map(|(i, s)| Some((i + 1, unknown(s)?)))
        .collect();
    refusals.extend(strangers.iter().take(SHOWN).map(|(sample, id)| {
        let why = "is the tokenizer this model's own (model.tokenizer)?";
        format!(
            "{key}: sample {sample} holds token id {id}, but the model knows {} ids; {why}",
            model.vocab_size
        )
    }));
    if strangers.len() > SHOWN {
        refusals.push(format!("{key}: and {} more samples like this", strangers.len() - SHOWN));
    }
    let positions = facts.positions();
    let long = samples.iter().filter(|s| s.len() > positions).count();
    if long > 0 {
        refusals.push(format!(
            "{key}: {long} samples are longer than the {positions} positions of the model{}; set data.max_length = {positions}",
            facts.beside()
        ));
    }
    if passing(samples).all(|s| s.target_tokens() == 0 && !s.is_labelled()) {
        refusals.push(format!(
            "{key}: no token of any sample is learned; check data.format and data.map"
        ));
    }
}

/// Rows that train and that no sample looks up.
fn tokens(facts: &Facts, warnings: &mut Vec<String>) {
    if facts.peft.method().tokens().is_empty() {
        return;
    }
    let seen: HashSet<u32> = passing(facts.train).flat_map(|s| s.ids.iter().copied()).collect();
    for token in facts.peft.method().tokens() {
        if let Token::Id(id) = token
            && !seen.contains(id)
        {
            let text = facts.tokenizer.id_to_token(*id).unwrap_or_default();
            warnings.push(format!(
                "peft: token \"{text}\" ({id}) is to train but stands in no training sample"
            ));
        }
    }
}

fn optimizer(facts: &Facts, refusals: &mut Vec<String>, warnings: &mut Vec<String>) {
    if facts.config.train.optimizer_in_backward && facts.peft.method().training_hook().is_some() {
        refusals.push(format!(
            "train.optimizer_in_backward: peft.method = \"{}\" looks at all gradients of a step at once; leave it out",
            facts.peft.name()
        ));
    }
    if facts.config.optim.pages() && facts.device.is_cpu() {
        warnings.push(format!(
            "optim.kind = \"{}\" pages nothing on the CPU, where states are in host memory anyway; it takes the steps of \
             \"adamw\"",
            facts.config.optim.kind()
        ));
    }
}

/// Held-out prompts that are trained on.
fn leaks(facts: &Facts, warnings: &mut Vec<String>) {
    let what = if facts.data.has_answers() { "prompts" } else { "texts" };
    if facts.data.tasks.is_empty() && facts.data.leaked > 0 {
        let held_out = facts.data.valid.as_ref().map_or(0, |valid| valid.samples);
        warnings.push(ft_data::leak_warning(facts.data.leaked, held_out, what));
    }
    for task in facts.data.tasks.iter().filter(|task| task.leaked > 0) {
        let told = ft_data::leak_warning(task.leaked, task.held_out, what);
        warnings.push(format!("task {}: {told}", task.name));
    }
}

fn lengths(facts: &Facts, warnings: &mut Vec<String>) {
    let (max, positions) = (facts.config.data.max_length, facts.positions());
    if max > positions {
        warnings.push(format!(
            "data.max_length is {max}, but the model has {positions} positions{}",
            facts.beside()
        ));
    }
}

fn evaluation(facts: &Facts, refusals: &mut Vec<String>, warnings: &mut Vec<String>) {
    if facts.steps.evaluates {
        return;
    }
    let needs = "needs held-out samples; give data.valid or data.valid_split";
    if facts.config.train.early_stopping.is_some() {
        refusals.push(format!("train.early_stopping {needs}"));
    }
    if facts.config.train.load_best {
        refusals.push(format!("train.load_best {needs}"));
    }
    warnings.push("no held-out samples: nothing will tell whether the model learns or memorizes".into());
}
