//! The configuration that an advice comes to.

use std::fmt::Write;

use serde_json::Value;

use super::{Demanded, Facts};
use crate::plan::Plan;

/// Commands to run before, and the configuration as text.
pub(super) fn of(choice: &Demanded, plan: &Plan, facts: &Facts) -> (Vec<String>, String) {
    let (config, mut commands) = (&plan.config, Vec::new());
    let model = config.model.path.display().to_string();
    let mut text = format!("# {}: what `ft advise` chose.\n\n[model]\n", choice.technique);
    let mut put = |line: String| writeln!(text, "{line}").expect("text grows");
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut path = model.clone();
    if choice.objective == "distill" {
        let layers: Vec<String> = (0..plan.model.num_hidden_layers)
            .step_by(2)
            .map(|n| n.to_string())
            .collect();
        commands.push(format!(
            "ft distill init {model} --layers {} --out student",
            layers.join(",")
        ));
        path = "student".into();
    }
    put(format!("path = {}", quoted(&path)));
    if let Some(kind) = choice.quant {
        put(format!("quant = {{ kind = \"{kind}\", double = true }}"));
    }
    put("\n[peft]".into());
    for (key, value) in choice.peft.as_object().into_iter().flatten() {
        put(format!("{key} = {value}"));
    }
    put("\n[data]".into());
    let data: Value = serde_json::to_value(&config.data).unwrap_or_default();
    for key in ["train", "valid", "format", "max_length"] {
        if let Some(value) = data
            .get(key)
            .filter(|value| !value.is_null() && config.task.is_empty() || key == "max_length")
        {
            put(format!("{key} = {}", toml_of(value)));
        }
    }
    if config.data.valid.is_none() {
        let share = match config.data.valid_split {
            0.0 if facts.samples < 1000 => 0.1,
            0.0 => 0.05,
            share => share,
        };
        put(format!("valid_split = {share}"));
    }
    if !config.data.map.is_empty() {
        let map: Vec<String> = config
            .data
            .map
            .iter()
            .map(|(k, v)| format!("{k} = {}", quoted(v)))
            .collect();
        put(format!("map = {{ {} }}", map.join(", ")));
    }
    for task in &config.task {
        let task = serde_json::to_value(task).unwrap_or_default();
        put("\n[[task]]".into());
        for key in ["name", "train", "valid", "format"] {
            if let Some(value) = task.get(key).filter(|value| !value.is_null()) {
                put(format!("{key} = {}", toml_of(value)));
            }
        }
    }
    if choice.objective == "distill" {
        put(format!(
            "\n[objective]\nkind = \"distill\"\nteacher = {}",
            quoted(&model)
        ));
    }
    if let Some(strategy) = choice.strategy.filter(|_| config.task.len() > 1) {
        put(format!("\n[continual]\nstrategy = \"{strategy}\""));
    }
    if choice.optimizer != "adamw" {
        put(format!("\n[optim]\nkind = \"{}\"", choice.optimizer));
    }
    put("\n[schedule]\nkind = \"cosine\"\nwarmup = 0.03".into());
    put(format!(
        "\n[train]\nbatch_size = {}\naccumulation = {}",
        choice.batch_size, choice.accumulation
    ));
    if choice.checkpointing {
        put("checkpointing = 1".into());
    }
    if let Some(memory) = &config.train.memory {
        put(format!("memory = {}", quoted(memory)));
    }
    put("epochs = 3\nload_best = true\nout = \"run\"".into());
    (commands, text)
}

fn toml_of(value: &Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}
