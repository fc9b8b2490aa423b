//! Which technique: what each of them takes for a model, its data and a device, and which the goal asks for.
//!
//! ```text
//! model, data, device ─> Facts ─┬─> technique.rs    each with the memory it takes, its batch cut until it fits
//!                               └─> rules.rs        the order for the goal, with a sentence of reason each
//! ─> Advised: ranked, the first that fits chosen, a configuration that runs
//! ```
//!
//! For a run that is over or under way, [`troubles`] reads its curves instead.

mod configuration;
mod measured;
mod rules;
mod technique;
mod trouble;

use burn::tensor::Device;
use serde::Serialize;

use crate::config::RunConfig;
use crate::plan::{DeviceTraits, Plan, thousands};
use crate::{Error, Result};

pub use measured::Measured;
pub use rules::Goal;
pub use technique::{Demanded, Technique};
pub use trouble::{Trouble, troubles};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// What matters most, where something does.
    pub goal: Option<Goal>,
    /// Tasks that are to be learned.
    pub tasks: usize,
    /// Floating-point operations per second of the device's matrix products, where they are known.
    pub product_rate: Option<f64>,
}

/// Of the rate of its matrix products, what a training step comes to: measured on CPUs (`benches/results`), 0.57 to 0.80 with LoRA and
/// 0.58 to 0.65 with all weights. On cards it is a guess.
const SHARE_OF_PRODUCTS: f64 = 0.6;

/// What the answer depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Parameters of the model.
    pub parameters: usize,
    /// Training samples.
    pub samples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Tasks.
    pub tasks: usize,
    /// Bytes that the run may take, where that is known.
    pub memory: Option<u64>,
    /// The device.
    pub device: String,
}

/// A technique in its place.
#[derive(Clone, Debug, Serialize)]
pub struct Ranked {
    /// What it is and takes.
    #[serde(flatten)]
    pub demanded: Demanded,
    /// Why it stands where it stands.
    pub reason: String,
    /// Of one pass over the training samples, where the device's speed is known.
    pub epoch_seconds: Option<f64>,
    /// How good it was where techniques were compared.
    pub measured: Vec<Measured>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Advised {
    /// What it depends on.
    pub facts: Facts,
    /// The first of `ranked` that fits; the first of all where none does.
    pub choice: Ranked,
    /// The best first; what does not fit comes last.
    pub ranked: Vec<Ranked>,
    /// What has to be done before the run.
    pub commands: Vec<String>,
    /// A configuration for `ft train`.
    pub config: String,
}

/// Ranks the techniques for what `config` names: a model, training data and `train.memory`; its method is not looked at.
///
/// # Errors
/// As [`crate::PlanSummary::elsewhere`].
pub fn advise(config: RunConfig, device: &DeviceTraits, here: &Device, question: &Question) -> Result<Advised> {
    let plan = Plan::draft(config, here, device)?;
    let facts = Facts {
        parameters: plan.model.num_parameters(),
        samples: plan.data.train.samples,
        tokens: plan.data.train.tokens,
        longest: plan.data.train.longest,
        tasks: question.tasks.max(plan.config.task.len()).max(1),
        memory: plan.budget,
        device: device.name().to_owned(),
    };
    let mut ranked = Vec::new();
    for technique in technique::ALL {
        // What this model cannot take (no biases, too few layers) is left out.
        if let Some(demanded) = technique.demand(&plan, device)? {
            let (rank, reason) = rules::judge(technique, &demanded, &facts, question.goal);
            let too_large = demanded.fits == Some(false);
            // Among those that are too large the smallest comes first.
            let rank = if too_large { 0 } else { rank };
            let speed = question.product_rate.map(|rate| rate * SHARE_OF_PRODUCTS);
            let ranked_here = Ranked {
                epoch_seconds: speed.map(|speed| demanded.petaflop * 1e15 / speed),
                measured: measured::of(technique.name),
                demanded,
                reason,
            };
            ranked.push((too_large, rank, ranked_here));
        }
    }
    ranked.sort_by_key(|(too_large, rank, ranked)| (*too_large, *rank, ranked.demanded.memory_bytes));
    let mut ranked: Vec<Ranked> = ranked.into_iter().map(|(_, _, ranked)| ranked).collect();
    let wanted = rules::order(&facts, question.goal)[0];
    let missed = ranked
        .iter()
        .any(|ranked| ranked.demanded.technique == wanted && ranked.demanded.fits == Some(false));
    let Some(first) = ranked.first_mut() else {
        return Err(Error::Plan(vec!["no technique can be applied to this model".into()]));
    };
    if missed && first.demanded.fits != Some(false) {
        first.reason = format!("{wanted} does not fit; {}", first.reason);
    }
    let choice = first.clone();
    let (commands, config) = configuration::of(&choice.demanded, &plan, &facts);
    Ok(Advised {
        facts,
        choice,
        ranked,
        commands,
        config,
    })
}

impl std::fmt::Display for Advised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let facts = &self.facts;
        let memory = facts.memory.map_or("unknown memory".into(), crate::memory::human);
        writeln!(
            f,
            "{} parameters, {} samples of at most {} tokens, {} task{}, {} with {memory}\n",
            thousands(facts.parameters),
            thousands(facts.samples),
            facts.longest,
            facts.tasks,
            if facts.tasks == 1 { "" } else { "s" },
            facts.device
        )?;
        for ranked in &self.ranked {
            let Demanded {
                technique,
                memory_bytes,
                fits,
                trainable,
                ..
            } = &ranked.demanded;
            let fits = match fits {
                Some(false) => ", too large",
                _ => "",
            };
            let epoch = ranked
                .epoch_seconds
                .map_or(String::new(), |seconds| format!("{:>9} an epoch", duration(seconds)));
            writeln!(
                f,
                "{technique:<17} {:>9}{fits:<11} {:>13} trained {epoch}  {}",
                crate::memory::human(*memory_bytes),
                thousands(*trainable),
                ranked.reason
            )?;
            // The comparison with the largest model comes last.
            if let Some(measured) = ranked.measured.last() {
                writeln!(f, "{:18}{measured}", "")?;
            }
        }
        for command in &self.commands {
            writeln!(f, "\nBefore the run: {command}")?;
        }
        Ok(())
    }
}

/// `3 s`, `12 min`, `5.2 h`.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
