//! What techniques came to where all of them were compared: `measured.json`, which `cargo xtask bench --record` writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A comparison: one model, one task, equal data and steps.
#[derive(Deserialize)]
struct Ground {
    ground: String,
    metric: String,
    rows: BTreeMap<String, Figures>,
}

#[derive(Deserialize)]
struct Figures {
    quality: f64,
    /// Standard deviation over seeds.
    deviation: f64,
}

/// How good a technique was in a comparison, and how good LoRA was there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The name of the comparison: `configs/compare-NAME.toml`.
    pub ground: String,
    /// The task's metric.
    pub metric: String,
    /// Mean over seeds.
    pub quality: f64,
    /// Standard deviation over seeds.
    pub deviation: f64,
    /// LoRA's mean.
    pub lora: f64,
}

/// The comparisons that `technique` was part of.
pub(super) fn of(technique: &str) -> Vec<Measured> {
    let grounds: Vec<Ground> = serde_json::from_str(include_str!("measured.json")).expect("comparisons in JSON");
    let found = grounds.into_iter().filter_map(|ground| {
        let row = ground.rows.get(row(technique))?;
        Some(Measured {
            quality: row.quality,
            deviation: row.deviation,
            lora: ground.rows.get("lora")?.quality,
            ground: ground.ground,
            metric: ground.metric,
        })
    });
    found.collect()
}

/// What the comparison calls a technique; strategies against forgetting are compared elsewhere.
fn row(technique: &str) -> &str {
    match technique {
        "full-8bit" => "full_adamw_8bit",
        "qlora" => "qlora_nf4_double",
        "adapters" => "pfeiffer",
        "prompt-tuning" => "prompt_tuning",
        "distillation" => "distilled_half",
        other => other,
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            ground,
            metric,
            quality,
            lora,
            ..
        } = self;
        write!(f, "{metric} {quality:.3} where LoRA had {lora:.3} ({ground})")
    }
}
