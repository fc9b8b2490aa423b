//! AdaLoRA in PEFT's `adapter_config.json`, both ways, and the tensors without the triplets that were taken away.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use serde_json::{Value, json};

use super::AdaLoraConfig;
use crate::error::Result;
use crate::methods::PeftConfig;
use crate::methods::common::{checked, record};
use crate::peft_config::{File, Target, number};

/// What PEFT's names of modules in `rank_pattern` end in.
const SUFFIX: &str = ".lora_E";

/// Options that change what an adapter computes and that PEFT's AdaLoRA does not have.
const UNSUPPORTED: [&str; 7] = [
    "use_dora",
    "use_rslora",
    "lora_bias",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
];

pub(crate) fn parse(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&UNSUPPORTED)?;
    file.refuse_bias()?;
    let default = AdaLoraConfig::default();
    let config = AdaLoraConfig {
        init_r: file.read("init_r")?.unwrap_or(default.init_r),
        target_r: file.read("target_r")?.unwrap_or(default.target_r),
        alpha: file.read("lora_alpha")?.unwrap_or(8.0),
        dropout: file.read("lora_dropout")?.unwrap_or(0.0),
        tinit: file.read("tinit")?.unwrap_or(0),
        tfinal: file.read("tfinal")?.unwrap_or(0),
        delta_t: file.read("deltaT")?.unwrap_or(1),
        beta1: file.read("beta1")?.unwrap_or(default.beta1),
        beta2: file.read("beta2")?.unwrap_or(default.beta2),
        orth_reg_weight: file.read("orth_reg_weight")?.unwrap_or(default.orth_reg_weight),
        targets: file.need("target_modules")?,
        exclude: file.read("exclude_modules")?.unwrap_or_default(),
        layers: file.layers()?,
        modules_to_save: file.read("modules_to_save")?.unwrap_or_default(),
        total_step: file.read("total_step")?.unwrap_or(0),
        rank_pattern: rank_pattern(file)?,
    };
    checked(config).map(PeftConfig::AdaLora)
}

/// The modules without PEFT's suffix.
fn rank_pattern(file: &File<'_>) -> Result<Option<BTreeMap<String, Vec<bool>>>> {
    let Some(read) = file.read::<BTreeMap<String, Vec<bool>>>("rank_pattern")? else {
        return Ok(None);
    };
    let plain = read.into_iter().map(|(name, kept)| {
        let name = name.trim_end_matches(".default");
        (name.strip_suffix(SUFFIX).unwrap_or(name).to_string(), kept)
    });
    Ok(Some(plain.collect()))
}

pub(super) fn write(config: &AdaLoraConfig, target: &Target<'_>) -> Value {
    let mut file = record("ADALORA", target, &config.modules_to_save);
    let kept = target
        .kept
        .iter()
        .map(|(path, kept)| (format!("{path}{SUFFIX}"), json!(kept)));
    file["beta1"] = json!(config.beta1);
    file["beta2"] = json!(config.beta2);
    file["bias"] = "none".into();
    file["deltaT"] = config.delta_t.into();
    file["fan_in_fan_out"] = target.fan_in_fan_out.into();
    file["init_lora_weights"] = true.into();
    file["init_r"] = config.init_r.into();
    file["lora_alpha"] = number(config.alpha);
    file["lora_dropout"] = json!(config.dropout);
    file["orth_reg_weight"] = json!(config.orth_reg_weight);
    file["rank_pattern"] = match target.kept.is_empty() {
        true => Value::Null,
        false => Value::Object(kept.collect()),
    };
    file["target_r"] = config.target_r.into();
    file["tfinal"] = config.tfinal.into();
    file["tinit"] = config.tinit.into();
    // PEFT refuses a file whose schedule has no step to decide in.
    file["total_step"] = config.total_step.max(config.tinit + config.tfinal + 1).into();
    file
}

/// The tensor `name` of a file that holds only the triplets in `kept`, with zeros for the others. What does not fit `kept`
/// comes back as it is.
pub(super) fn unpruned(name: &str, data: TensorData, kept: &[bool]) -> TensorData {
    let count = kept.iter().filter(|kept| **kept).count();
    let Ok([rows, cols]) = <[usize; 2]>::try_from(data.shape().to_vec()) else {
        return data;
    };
    let by_column = name == "lora_B";
    if count != if by_column { cols } else { rows } || count == kept.len() {
        return data;
    }
    let shape = if by_column {
        [rows, kept.len()]
    } else {
        [kept.len(), cols]
    };
    let values: Vec<f32> = data.convert::<f32>().try_into_vec().expect("just converted");
    let mut values = values.into_iter();
    let mut at = |row: usize, col: usize| match kept[if by_column { col } else { row }] {
        true => values.next().unwrap_or_default(),
        false => 0.0,
    };
    let cells = (0..shape[0]).flat_map(|row| (0..shape[1]).map(move |col| (row, col)));
    let full: Vec<f32> = cells.map(|(row, col)| at(row, col)).collect();
    TensorData::new(full, shape)
}
