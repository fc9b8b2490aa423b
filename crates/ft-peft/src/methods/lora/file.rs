//! LoRA in PEFT's `adapter_config.json`, both ways.

use serde_json::{Map, Value, json};

use super::{BiasMode, Init, LoraConfig};
use crate::error::Result;
use crate::methods::trainable_tokens::Token;
use crate::methods::{PeftConfig, PeftMethod};
use crate::patterns::Patterns;
use crate::peft_config::{File, Target, number};
use crate::targets::{Targets, has_suffix};

/// Options that change what an adapter computes and that we do not have: an adapter that uses one is refused.
const UNSUPPORTED: [&str; 5] = [
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
];

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&UNSUPPORTED)?;
    let target_parameters = file.read::<Vec<String>>("target_parameters")?.unwrap_or_default();
    let config = LoraConfig {
        rank: file.read("r")?.unwrap_or(8),
        alpha: file.read("lora_alpha")?.unwrap_or(8.0),
        dropout: file.read("lora_dropout")?.unwrap_or(0.0),
        targets: match (file.read::<Targets>("target_modules")?, target_parameters.is_empty()) {
            (Some(targets), _) => targets,
            (None, true) => file.need("target_modules")?,
            (None, false) => Targets::suffixes(&[]),
        },
        target_parameters,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        rank_pattern: file.read::<Patterns<usize>>("rank_pattern")?.unwrap_or_default(),
        alpha_pattern: file.read::<Patterns<f64>>("alpha_pattern")?.unwrap_or_default(),
        rslora: file.read("use_rslora")?.unwrap_or(false),
        bias: file.read::<BiasMode>("bias")?.unwrap_or_default(),
        dora: file.read("use_dora")?.unwrap_or(false),
        lora_bias: file.read("lora_bias")?.unwrap_or(false),
        init: init(file)?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
        trainable_token_indices: tokens(file)?,
        ..LoraConfig::default()
    };
    config.check()?;
    Ok(PeftConfig::Lora(config))
}

/// A list, or a table with the name of one layer: the input embeddings.
fn tokens(file: &File<'_>) -> Result<Vec<Token>> {
    const KEY: &str = "trainable_token_indices";
    let Some(Value::Object(by_layer)) = file.object.get(KEY) else {
        return Ok(file.read(KEY)?.unwrap_or_default());
    };
    let tables = ["embed_tokens", "wte"];
    match by_layer.iter().next() {
        Some((layer, ids)) if by_layer.len() == 1 && tables.iter().any(|name| has_suffix(layer, name)) => {
            serde_json::from_value(ids.clone()).map_err(|e| file.error(KEY, &e.to_string()))
        }
        _ => Err(file.error(KEY, "only rows of the input embeddings can be read yet")),
    }
}

fn init(file: &File<'_>) -> Result<Init> {
    match file.object.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(Init::Kaiming),
        Some(Value::String(name)) if name == "gaussian" => Ok(Init::Gaussian),
        Some(Value::String(name)) if name == "pissa" => Ok(Init::Pissa),
        Some(Value::String(name)) if name == "olora" => Ok(Init::Olora),
        Some(other) => {
            let why = format!("{other} moves the base weight in a way that cannot be repeated here");
            Err(file.error("init_lora_weights", &why))
        }
    }
}

/// Only keys that every release of PEFT knows. An adapter whose base was moved at the start is written over the unmoved
/// base: twice the rank at the same scale. Adapters one behind the other are one of all their ranks.
pub(super) fn write(config: &LoraConfig, target: &Target<'_>) -> Value {
    let moved = config.moves_base();
    let times = if moved { 2 } else { target.stacked };
    let rank = |r: usize| times * r;
    let alpha = |a: f64| match config.rslora {
        false => times as f64 * a,
        true => (times as f64).sqrt() * a,
    };
    let ranks: Map<String, Value> = pattern_map(&config.rank_pattern, |r| rank(*r).into());
    let alphas: Map<String, Value> = pattern_map(&config.alpha_pattern, |a| number(alpha(*a)));
    let init = if config.init == Init::Gaussian {
        json!("gaussian")
    } else {
        json!(true)
    };
    let whole = if config.modules_to_save.is_empty() {
        Value::Null
    } else {
        json!(config.modules_to_save)
    };
    let mut file = json!({
        "alpha_pattern": alphas,
        "base_model_name_or_path": target.base_model,
        "bias": config.bias,
        "fan_in_fan_out": target.fan_in_fan_out,
        "inference_mode": true,
        "init_lora_weights": init,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(alpha(config.alpha)),
        "lora_dropout": config.dropout,
        "modules_to_save": whole,
        "peft_type": "LORA",
        "r": rank(config.rank),
        "rank_pattern": ranks,
        "target_modules": target.modules,
        "task_type": "CAUSAL_LM",
        "use_dora": config.dora,
        "use_rslora": config.rslora,
    });
    if !config.trainable_token_indices.is_empty() {
        file["trainable_token_indices"] = json!(config.trainable_token_indices);
    }
    if !config.target_parameters.is_empty() {
        file["target_parameters"] = json!(config.target_parameters);
    }
    if config.lora_bias {
        file["lora_bias"] = true.into();
    }
    file
}

/// A pattern as PEFT writes it.
pub(crate) fn pattern_map<T>(patterns: &Patterns<T>, value: impl Fn(&T) -> Value) -> Map<String, Value> {
    patterns.0.iter().map(|(key, v)| (key.clone(), value(v))).collect()
}
