//! LoRA on matrices that all experts of a layer have in one tensor: PEFT's `target_parameters`.

use super::LoraConfig;
use crate::adapter::experts::of_experts;
use crate::attach::ModuleSpec;
use crate::error::{Error, Result};
use crate::methods::common::invalid;
use crate::targets::{has_suffix, nearest};

const KEY: &str = "target_parameters";

/// What PEFT has no form for.
pub(super) fn check(config: &LoraConfig) -> Result<()> {
    if config.target_parameters.is_empty() {
        return Ok(());
    }
    let found = [
        ("dropout", config.dropout > 0.0),
        ("dora", config.dora),
        ("lora_bias", config.lora_bias),
        ("init", config.moves_base()),
        ("rank_pattern", !config.rank_pattern.is_empty()),
    ];
    match found.iter().find(|(_, found)| *found) {
        None => Ok(()),
        Some((key, _)) => Err(invalid(key, format!("does not go with {KEY}; leave one of them out"))),
    }
}

/// The adapted modules with those of the experts that are named, and no others of experts.
pub(super) fn with_experts(adapted: Vec<String>, parameters: &[String], specs: &[ModuleSpec]) -> Result<Vec<String>> {
    let stacked = |path: &str| of_experts(path).map(|(at, _, matrix)| format!("{at}.{matrix}"));
    for parameter in parameters {
        let mut tensors = specs.iter().filter_map(|spec| stacked(&spec.path));
        if !tensors.any(|tensor| has_suffix(&tensor, parameter)) {
            let tensors: Vec<String> = specs.iter().filter_map(|spec| stacked(&spec.path)).collect();
            return Err(Error::NoTarget {
                targets: format!("{KEY} = [\"{parameter}\"]"),
                nearest: nearest(parameter, tensors.iter().map(String::as_str)),
            });
        }
    }
    let named = |path: &str| match stacked(path) {
        Some(tensor) => parameters.iter().any(|parameter| has_suffix(&tensor, parameter)),
        None => adapted.iter().any(|own| own == path),
    };
    let paths = specs.iter().map(|spec| &spec.path);
    Ok(paths.filter(|path| named(path)).cloned().collect())
}
