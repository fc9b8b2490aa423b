//! The order of the techniques: the guide's decision table, and what each goal changes of it.

use serde::Serialize;

use super::{Demanded, Facts, Technique};

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// The best result.
    Quality,
    /// The least memory.
    Memory,
    /// The shortest training.
    Speed,
    /// Many adapters on one base in one server.
    ServeMany,
    /// What the model knew before.
    KeepOldSkills,
    /// A small and fast model in the end.
    TinyModel,
    /// To see what was learned.
    Interpretability,
}

impl Goal {
    /// Every goal as it is typed.
    pub const ALL: [(&'static str, Goal); 7] = [
        ("quality", Goal::Quality),
        ("memory", Goal::Memory),
        ("speed", Goal::Speed),
        ("serve-many", Goal::ServeMany),
        ("keep-old-skills", Goal::KeepOldSkills),
        ("tiny-model", Goal::TinyModel),
        ("interpretability", Goal::Interpretability),
    ];
}

/// From so many samples on all weights can be learned without learning them by heart.
const MANY_SAMPLES: usize = 100_000;
/// With so few, more than a low rank overfits.
const FEW_SAMPLES: usize = 10_000;
/// From so many parameters on a model is held in 4 bits whatever there is.
const VERY_LARGE: usize = 60_000_000_000;

/// The order among those that fit, the smallest first, and the reason.
pub(super) fn judge(technique: &Technique, demanded: &Demanded, facts: &Facts, goal: Option<Goal>) -> (usize, String) {
    let order = order(facts, goal);
    let rank = order
        .iter()
        .position(|name| *name == technique.name)
        .unwrap_or(order.len());
    let reason = match (demanded.fits, rank) {
        (Some(false), _) => "does not fit, even one sample at a time with blocks computed again".to_owned(),
        (_, 0) => first(facts, goal),
        _ => about(technique.name).to_owned(),
    };
    (rank, reason)
}

/// The techniques in the order in which they are wanted.
pub(super) fn order(facts: &Facts, goal: Option<Goal>) -> Vec<&'static str> {
    match goal {
        Some(Goal::Quality) if facts.samples >= FEW_SAMPLES => vec!["full", "full-8bit", "dora", "lora", "qlora"],
        Some(Goal::Quality) => vec!["dora", "lora", "full", "full-8bit", "qlora"],
        Some(Goal::Memory) => vec!["qlora", "prompt-tuning-nf4", "adapters-nf4", "ia3", "lora"],
        Some(Goal::Speed) => vec!["lora", "ia3", "adapters", "qlora"],
        Some(Goal::ServeMany) => vec!["lora", "qlora", "ia3", "adapters"],
        Some(Goal::KeepOldSkills) => vec!["replay-lora", "replay-qlora", "lora", "qlora"],
        Some(Goal::TinyModel) => vec!["distillation", "lora", "qlora"],
        Some(Goal::Interpretability) => vec!["prompt-tuning", "prompt-tuning-nf4", "ia3", "lora", "qlora"],
        None if facts.tasks > 1 => vec!["adapters", "adapters-nf4", "lora", "qlora", "ia3"],
        None if facts.parameters >= VERY_LARGE => vec!["qlora", "prompt-tuning-nf4", "lora"],
        None if facts.samples >= MANY_SAMPLES => vec!["full", "full-8bit", "lora", "dora", "qlora"],
        None => vec![
            "lora",
            "dora",
            "qlora",
            "adapters",
            "ia3",
            "full",
            "full-8bit",
            "adapters-nf4",
        ],
    }
}

/// Why the first one is the first.
fn first(facts: &Facts, goal: Option<Goal>) -> String {
    match goal {
        Some(Goal::Quality) if facts.samples >= FEW_SAMPLES => {
            "enough data for all weights, which reach the lowest loss"
        }
        Some(Goal::Quality) => {
            "closest to full fine-tuning where data is short: a low rank that also learns magnitudes"
        }
        Some(Goal::Memory) => "the base in 4 bits, and little that trains beside it",
        Some(Goal::Speed) => "no gradients of weights, and nothing to unpack",
        Some(Goal::ServeMany) => "megabytes each, any mixture of them in one batch, merged or not",
        Some(Goal::KeepOldSkills) => "samples of what was learned before are fed again, and the base stays as it is",
        Some(Goal::TinyModel) => "half the layers learn from the whole model: twice as fast to run",
        Some(Goal::Interpretability) => "what was learned is a prompt, and the model stays as it is",
        None if facts.tasks > 1 => "one small module per task, added and taken away without touching the others",
        None if facts.parameters >= VERY_LARGE => "at this size the base is held in 4 bits",
        None if facts.samples >= MANY_SAMPLES => "so much data can teach all weights, and there is memory for them",
        None => "it fits, learns most of what full fine-tuning learns, and can be merged",
    }
    .to_owned()
}

fn about(name: &str) -> &'static str {
    match name {
        "full" => "all weights: the most it can learn, the most memory, the easiest to overfit",
        "full-8bit" => "all weights, with the optimizer's states in 8 bits",
        "lora" => "a low rank beside each projection; can be merged",
        "dora" => "LoRA with magnitudes: a little better, a little slower",
        "qlora" => "LoRA over a base in 4 bits: a quarter of the memory of the weights",
        "replay-lora" | "replay-qlora" => "LoRA with samples of earlier tasks fed again",
        "adapters" | "adapters-nf4" => "a bottleneck behind each block: cannot be merged, easy to exchange",
        "ia3" => "one vector per projection: the smallest that still learns a task",
        "prompt-tuning" | "prompt-tuning-nf4" => {
            "twenty virtual tokens: nothing in the model changes, learns the least"
        }
        "distillation" => "a smaller model instead of an adapter",
        _ => "",
    }
}
