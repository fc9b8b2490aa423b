//! PEFT's `adapter_config.json`, both ways.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::methods::PeftConfig;
use crate::methods::lora::{BiasMode, Init, LoraConfig};
use crate::patterns::Patterns;
use crate::targets::{Layers, Targets};

/// Options that change what an adapter computes and that we do not have: an adapter that uses one is refused.
const UNSUPPORTED: [&str; 8] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
];

/// The method and options of `text`, an `adapter_config.json` read from `path`.
pub(crate) fn parse(text: &str, path: &Path) -> Result<PeftConfig> {
    let format = |why: String| Error::Format { path: path.into(), why };
    let value: Value = serde_json::from_str(text).map_err(|e| format(format!("not valid JSON: {e}")))?;
    let object = value
        .as_object()
        .ok_or_else(|| format("a JSON object is needed".into()))?;
    let file = File { object, path };
    match file.text("peft_type") {
        Some("LORA") => file.lora().map(PeftConfig::Lora),
        Some(other) => Err(format(format!(
            "peft_type \"{other}\" cannot be read yet; supported: LORA"
        ))),
        None => Err(format(
            "peft_type is missing: this is not an adapter_config.json of PEFT".into(),
        )),
    }
}

struct File<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path,
}

impl File<'_> {
    fn lora(&self) -> Result<LoraConfig> {
        if let Some(key) = UNSUPPORTED.iter().find(|key| self.is_set(key)) {
            return Err(self.error(key, "this option cannot be read yet"));
        }
        let config = LoraConfig {
            rank: self.read("r")?.unwrap_or(8),
            alpha: self.read("lora_alpha")?.unwrap_or(8.0),
            dropout: self.read("lora_dropout")?.unwrap_or(0.0),
            targets: self
                .read::<Targets>("target_modules")?
                .ok_or_else(|| self.error("target_modules", "missing"))?,
            exclude: self.read("exclude_modules")?.unwrap_or_default(),
            layers: self.layers()?,
            rank_pattern: self.read::<Patterns<usize>>("rank_pattern")?.unwrap_or_default(),
            alpha_pattern: self.read::<Patterns<f64>>("alpha_pattern")?.unwrap_or_default(),
            rslora: self.read("use_rslora")?.unwrap_or(false),
            bias: self.read::<BiasMode>("bias")?.unwrap_or_default(),
            lora_bias: self.read("lora_bias")?.unwrap_or(false),
            init: self.init()?,
            modules_to_save: self.read("modules_to_save")?.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn layers(&self) -> Result<Option<Layers>> {
        match self.object.get("layers_to_transform") {
            Some(Value::Number(_)) => Ok(self.read("layers_to_transform")?.map(|layer| Layers::List(vec![layer]))),
            _ => self.read("layers_to_transform"),
        }
    }

    fn init(&self) -> Result<Init> {
        match self.object.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => Ok(Init::Kaiming),
            Some(Value::String(name)) if name == "gaussian" => Ok(Init::Gaussian),
            Some(Value::String(name)) if name == "pissa" => Ok(Init::Pissa),
            Some(Value::String(name)) if name == "olora" => Ok(Init::Olora),
            Some(other) => {
                let why = format!("{other} moves the base weight in a way that cannot be repeated here");
                Err(self.error("init_lora_weights", &why))
            }
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.object.get(key).and_then(Value::as_str)
    }

    fn is_set(&self, key: &str) -> bool {
        !matches!(self.object.get(key), None | Some(Value::Null | Value::Bool(false)))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|e| self.error(key, &format!("{value}: {e}"))),
        }
    }

    fn error(&self, key: &str, why: &str) -> Error {
        Error::Format {
            path: self.path.into(),
            why: format!("{key}: {why}"),
        }
    }
}

/// The file for a LoRA that sits on `targets` over `base_model`; only keys that every release of PEFT knows. An adapter
/// whose base was moved at the start is written over the unmoved base: twice the rank at the same scale.
pub(crate) fn write(config: &LoraConfig, base_model: &str, targets: &[String], fan_in_fan_out: bool) -> String {
    let moved = matches!(config.init, Init::Pissa | Init::Olora);
    let rank = |r: usize| if moved { 2 * r } else { r };
    let alpha = |a: f64| match (moved, config.rslora) {
        (false, _) => a,
        (true, false) => 2.0 * a,
        (true, true) => std::f64::consts::SQRT_2 * a,
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
        "base_model_name_or_path": base_model,
        "bias": config.bias,
        "fan_in_fan_out": fan_in_fan_out,
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
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.rslora,
    });
    if config.lora_bias {
        file["lora_bias"] = true.into();
    }
    serde_json::to_string_pretty(&file).expect("a JSON map serializes")
}

fn pattern_map<T>(patterns: &Patterns<T>, value: impl Fn(&T) -> Value) -> Map<String, Value> {
    patterns.0.iter().map(|(key, v)| (key.clone(), value(v))).collect()
}

/// Whole numbers without a fraction, as PEFT writes them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
