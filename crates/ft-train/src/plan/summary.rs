//! A plan for people and scripts.

use ft_peft::Choice;
use std::collections::BTreeMap;

use burn::tensor::Device;
use ft_peft::Part;
use serde::Serialize;

use super::{Advice, Alignment, Bytes, DataSummary, DeviceTraits, PackingSummary, Plan, Steps};
use super::{Disk, Network, Over, RankPlan, ranks_table};
use crate::config::{AdapterSharing, RunConfig};
use crate::{Result, memory};

/// Everything decided before a run; serializes to the object of `ft plan --json`, and displays as its text.
#[derive(Clone, Debug, Serialize)]
pub struct PlanSummary {
    /// `model_type` of the base.
    pub model: String,
    /// Parameters of the base.
    pub parameters: usize,
    /// Method.
    pub method: String,
    /// Parameters that train.
    pub trainable: usize,
    /// Numbers of these in maps of hidden states, which the run alone needs.
    #[serde(skip_serializing_if = "is_zero")]
    pub projections: usize,
    /// Adapters that train so many parameters each: one for each task, or one.
    pub adapters: usize,
    /// Modules that carry an adapter.
    pub adapted: usize,
    /// Modules that train whole.
    pub whole: usize,
    /// The last components of the paths of both, each once: `q_proj`, `v_proj`.
    pub targets: Vec<String>,
    /// Columns that the method puts before every text.
    pub virtual_tokens: usize,
    /// Device.
    pub device: String,
    /// What is done against forgetting, where tasks come one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<&'static str>,
    /// Steps and intervals.
    pub steps: Steps,
    /// Samples and tokens.
    pub data: DataSummary,
    /// Whether samples share rows.
    pub packing: PackingSummary,
    /// How a teacher with another tokenizer reads the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
    /// Rows of the largest micro-batch.
    pub batch_rows: usize,
    /// Columns of the largest micro-batch.
    pub batch_width: usize,
    /// The first optimizer step, from 1, that has it.
    pub batch_step: usize,
    /// Bytes by part.
    pub bytes: Bytes,
    /// All parts together.
    pub bytes_total: u64,
    /// Room on the disk.
    pub disk: Disk,
    /// What the machine could still give out, where it tells.
    pub bytes_available: Option<u64>,
    /// Whether it fits, where that is known.
    pub fits: Option<bool>,
    /// Learning rates other than the base rate, by what learns at them.
    pub rates: BTreeMap<&'static str, f64>,
    /// Embedding rows that train one by one.
    pub rows: usize,
    /// What to change where it does not fit, one on top of the other.
    pub advice: Vec<Advice>,
    /// What stands in the way of the run.
    pub refusals: Vec<String>,
    /// Things that are allowed but probably not meant.
    pub warnings: Vec<String>,
    /// What connects the processes that it was planned for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The run over several processes, where it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankPlan>,
}

impl PlanSummary {
    /// As [`Plan::resolve`], but whole where something stands in the way that only the run itself needs, such as room on the
    /// disk: see [`refusals`](Self::refusals).
    ///
    /// # Errors
    /// What leaves nothing to plan: unreadable files, targets that match nothing, numbers that do not add up.
    pub fn of(config: RunConfig, device: &Device, device_name: &str) -> Result<Self> {
        Self::of_ranks(config, device, device_name, None)
    }

    /// The same with what it comes to over several processes.
    ///
    /// # Errors
    /// As [`of`](Self::of); a number of processes that nobody has.
    pub fn of_ranks(config: RunConfig, device: &Device, device_name: &str, over: Option<Over>) -> Result<Self> {
        Self::draft(config, device, &DeviceTraits::of(device, device_name), over)
    }

    /// The same for a device that is not in this machine, or not in this build: memory, disk and weights that would be looked at
    /// are not there, so that it fits or not by `train.memory` alone. Nothing is computed on `here`, which is any device.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn elsewhere(config: RunConfig, device: &DeviceTraits, here: &Device, over: Option<Over>) -> Result<Self> {
        Self::draft(config, here, device, over)
    }

    fn draft(config: RunConfig, device: &Device, traits: &DeviceTraits, over: Option<Over>) -> Result<Self> {
        let plan = Plan::draft(config, device, traits)?;
        let ranks = over.map(|over| plan.over_ranks(over)).transpose()?;
        Ok(Self {
            network: over.map(|over| over.network),
            ranks: ranks.unwrap_or_default(),
            ..plan.summary()
        })
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Plan {
    /// The plan in numbers.
    pub fn summary(&self) -> PlanSummary {
        let (rows, width) = self.batches.largest_micro_batch();
        PlanSummary {
            model: self.model.model_type.clone(),
            parameters: self.model.num_parameters(),
            method: self.peft.name().to_owned(),
            trainable: self.trainable(),
            projections: self.trainable() - self.attached.parameters,
            adapters: self.adapters(),
            adapted: self.attached.choice.adapted.len(),
            whole: self.attached.choice.whole.len(),
            virtual_tokens: self.peft.method().virtual_tokens(),
            targets: targets(&self.attached.choice),
            device: self.provenance.device.clone(),
            strategy: self.config.continual.as_ref().map(|section| section.strategy.name()),
            steps: self.steps.clone(),
            data: self.data.clone(),
            packing: self.packing.clone(),
            alignment: self.alignment,
            batch_rows: rows,
            batch_width: width,
            batch_step: self.batches.step_of_largest(),
            bytes: self.bytes,
            bytes_total: self.bytes.total(),
            disk: self.disk,
            rates: self.rates(),
            rows: self.peft.method().tokens().len() * self.attached.choice.rows.len(),
            bytes_available: self.budget,
            fits: self.budget.map(|budget| self.bytes.total() <= budget),
            advice: self.advice.clone(),
            refusals: self.refusals.clone(),
            warnings: self.warnings.clone(),
            network: None,
            ranks: Vec::new(),
        }
    }
}

impl Plan {
    /// What a run says of its samples when it starts.
    pub(crate) fn notes(&self) -> Vec<String> {
        let packing = format!("packing: {}", self.packing);
        let teacher = self.alignment.map(|alignment| format!("teacher: {alignment}"));
        let cached = self.data.cached.iter().map(|cached| format!("token cache: {cached}"));
        let adapters = Some(self.adapters()).filter(|adapters| *adapters > 1);
        let adapters = adapters.map(|n| format!("adapters: {n}, one for each task, over one base"));
        let more = teacher.into_iter().chain(cached).chain(adapters);
        std::iter::once(packing).chain(more).collect()
    }

    /// Adapters that train side by side.
    fn adapters(&self) -> usize {
        match self.config.mixture.adapter {
            AdapterSharing::Shared => 1,
            AdapterSharing::PerTask => self.tasks.0.len(),
        }
    }

    fn rates(&self) -> BTreeMap<&'static str, f64> {
        let base = self.steps.base_lr;
        let parts = [
            ("B", Part::Matrix("lora_B.weight")),
            ("vectors", Part::Vector),
            ("embedding adapters", Part::Embedding),
        ];
        let rates = parts.map(|(what, part)| (what, self.peft.method().rate(part, base)));
        rates.into_iter().filter(|(_, rate)| *rate != base).collect()
    }
}

impl std::fmt::Display for PlanSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = 100.0 * self.trainable as f64 / self.parameters.max(1) as f64;
        let steps = &self.steps;
        writeln!(
            f,
            "model      {}, {} parameters, on {}",
            self.model,
            thousands(self.parameters),
            self.device
        )?;
        let mut specs = format!("{} adapted, {} whole", self.adapted, self.whole);
        if self.rows > 0 {
            specs += &format!(", {} embedding rows", self.rows);
        }
        if self.projections > 0 {
            specs += &format!(", {} in maps of hidden states", thousands(self.projections));
        }
        writeln!(
            f,
            "trains     {} ({share:.3} %), {}: {specs}",
            thousands(self.trainable),
            self.method
        )?;
        writeln!(f, "targets    {}", self.targets.join(", "))?;
        if self.virtual_tokens > 0 {
            writeln!(f, "virtual    {} tokens before every text", self.virtual_tokens)?;
        }
        let (samples, tokens) = (thousands(self.data.train.samples), thousands(self.data.train.tokens));
        let learned = 100.0 * self.data.train.learned as f64 / self.data.train.tokens.max(1) as f64;
        writeln!(
            f,
            "data       {samples} samples ({}), {tokens} tokens, {learned:.1} % learned",
            self.data.format
        )?;
        if self.data.train.counts.made > 0 {
            let made = thousands(self.data.train.counts.made);
            writeln!(f, "augmented  {made} of them made from the others")?;
        }
        for cached in &self.data.cached {
            writeln!(f, "cache      {cached}")?;
        }
        if let Some(valid) = &self.data.valid {
            writeln!(
                f,
                "held out   {} samples, {} tokens",
                thousands(valid.samples),
                thousands(valid.tokens)
            )?;
        }
        writeln!(f, "packing    {}", self.packing)?;
        if let Some(alignment) = &self.alignment {
            writeln!(f, "teacher    {alignment}")?;
        }
        for task in &self.data.tasks {
            let (samples, out) = (thousands(task.samples), thousands(task.held_out));
            let turns = task.per_epoch as f64 / task.samples.max(1) as f64;
            let epoch = thousands(task.per_epoch);
            let name = format!("task {}", task.name);
            writeln!(
                f,
                "{name:<10} {samples} samples, {out} held out; {epoch} in an epoch, each {turns:.2} times"
            )?;
        }
        if self.adapters > 1 {
            writeln!(f, "adapters   {}, one for each task, over one base", self.adapters)?;
        }
        if let Some((strategy, ends)) = self.strategy.as_ref().map(|name| (name, &steps.task_ends)) {
            let ends: Vec<String> = ends.iter().map(|end| thousands(*end)).collect();
            writeln!(f, "continual  {strategy}; tasks end after {} steps", ends.join(", "))?;
        }
        let epochs = format!("{:.2} epochs of {}", steps.epochs, steps.per_epoch);
        writeln!(
            f,
            "steps      {} ({epochs}), warm-up {}, learning rate {:e}",
            thousands(steps.total),
            steps.warmup,
            steps.base_lr
        )?;
        if !self.rates.is_empty() {
            let rates: Vec<String> = self
                .rates
                .iter()
                .map(|(what, rate)| format!("{what} {rate:e}"))
                .collect();
            writeln!(f, "rates      {}", rates.join(", "))?;
        }
        writeln!(
            f,
            "intervals  log {}, evaluate {}, save {}",
            steps.log_every, steps.eval_every, steps.save_every
        )?;
        writeln!(
            f,
            "memory     {} at {} x {} tokens, first in step {}",
            memory::human(self.bytes_total),
            self.batch_rows,
            self.batch_width,
            self.batch_step
        )?;
        for (name, bytes) in self.bytes.parts() {
            writeln!(f, "  {name:<12}{:>10}", memory::human(bytes))?;
        }
        match (self.fits, self.bytes_available) {
            (Some(true), Some(free)) => writeln!(f, "  fits: {} are available", memory::human(free))?,
            (Some(false), Some(free)) => {
                let hint = "lower data.max_length, or, one on top of the other:";
                writeln!(f, "  does not fit: {} are available; {hint}", memory::human(free))?;
                for Advice { change, bytes } in &self.advice {
                    writeln!(f, "    {change:<44}{:>10}", memory::human(*bytes))?;
                }
            }
            _ => {}
        }
        let free = self
            .disk
            .available
            .map_or(String::new(), |free| format!("; {} are free", memory::human(free)));
        let (needed, each) = (memory::human(self.disk.needed), memory::human(self.disk.checkpoint));
        writeln!(f, "disk       {needed}, checkpoints of {each}{free}")?;
        self.warnings.iter().try_for_each(|w| writeln!(f, "warning    {w}"))?;
        match self.network {
            None => Ok(()),
            Some(network) => write!(f, "\n{}", ranks_table(&self.ranks, network)),
        }
    }
}

fn targets(choice: &Choice) -> Vec<String> {
    let own = choice.whole.iter().chain(&choice.biases).chain(&choice.rows);
    let paths = choice.adapted.iter().chain(own);
    let mut names = Vec::new();
    for path in paths {
        let name = path.rsplit('.').next().unwrap_or(path).to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `1,234,567`.
pub(crate) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|c| std::str::from_utf8(c).ok())
        .collect();
    groups.join(",")
}
