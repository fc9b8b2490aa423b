//! The `adapter_config.json` of an adapter in a model.

use std::collections::BTreeMap;

use serde_json::json;

use crate::adapterhub;
use crate::attach::{Choice, ModuleSpec, module_specs};
use crate::methods::{Delta, PeftConfig, WeightDelta};
use crate::peft_config::Target;
use crate::target_module::{Adaptable, AttentionShape, ModuleSlot, TargetModule, TaskHead};
use crate::targets::{Kind, has_suffix};

/// The `adapter_config.json` of the adapter; `None` where there is no adapter to save.
pub(super) fn record(
    model: &mut impl Adaptable,
    config: &PeftConfig,
    choice: &Choice,
    base_model: &str,
) -> Option<serde_json::Value> {
    if let Some((name, options)) = config.method().to_adapterhub() {
        let hidden = module_specs(model)
            .iter()
            .find(|p| p.kind == Kind::Residual)
            .map_or(0, |p| p.dims[0]);
        return Some(adapterhub::record(
            name,
            options,
            model.architecture(),
            hidden,
            base_model,
        ));
    }
    let paths = config.method().targeted(choice);
    let modules = shortest(&paths, &module_specs(model));
    let target = Target {
        base_model,
        modules: &modules,
        paths: &paths,
        kept: &kept(model),
        stacked: stacked(model),
        fan_in_fan_out: stores_in_out(model),
        shape: attention(model),
    };
    let mut record = config.method().to_peft(&target)?;
    if !model.writes() {
        record["task_type"] = serde_json::Value::Null;
    }
    Some(match model.task_head() {
        None => record,
        Some(task) => with_head(record, task),
    })
}

/// The record of an adapter that is saved with a head.
fn with_head(mut record: serde_json::Value, task: TaskHead) -> serde_json::Value {
    let own = record["modules_to_save"].as_array().cloned().unwrap_or_default();
    let heads = task.modules.iter().map(|module| json!(module));
    let more: Vec<serde_json::Value> = heads.filter(|module| !own.contains(module)).collect();
    record["modules_to_save"] = own.into_iter().chain(more).collect();
    record["task_type"] = task.task.into();
    record
}

/// The rank-one parts that the file holds, of modules where some were taken away.
fn kept(model: &mut impl Adaptable) -> BTreeMap<String, Vec<bool>> {
    let of = |module: TargetModule<'_>| match &module.slot {
        ModuleSlot::Projection(slot) => Some((module.path, slot.delta.as_ref()?.kept()?)),
        _ => None,
    };
    model.target_modules().into_iter().filter_map(of).collect()
}

fn stacked(model: &mut impl Adaptable) -> usize {
    let of = |module: TargetModule<'_>| match &module.slot {
        ModuleSlot::Projection(slot) => match &slot.delta {
            Some(Delta::Lora(lora)) => Some(lora.stacked()),
            _ => None,
        },
        _ => None,
    };
    model.target_modules().into_iter().find_map(of).unwrap_or(1)
}

/// The adapted modules as PEFT's `target_modules`: their last components where these mean exactly the same modules, else
/// whole paths.
fn shortest(adapted: &[String], specs: &[ModuleSpec]) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_string();
    let mut names: Vec<String> = adapted.iter().map(|path| last(path)).collect();
    names.sort();
    names.dedup();
    let candidates = specs.iter().filter(|spec| spec.kind != Kind::TiedHead);
    let exact = candidates.filter(|spec| names.iter().any(|name| has_suffix(&spec.path, name)));
    if exact.map(|spec| &spec.path).eq(adapted) {
        names
    } else {
        adapted.to_vec()
    }
}

fn attention(model: &mut impl Adaptable) -> AttentionShape {
    let shape = model.target_modules().into_iter().find_map(|module| match module.slot {
        ModuleSlot::Attention { shape, .. } => Some(shape),
        _ => None,
    });
    shape.unwrap_or_default()
}

fn stores_in_out(model: &mut impl Adaptable) -> bool {
    let mut modules = model.target_modules().into_iter();
    modules.any(|module| match &module.slot {
        ModuleSlot::Projection(slot) => slot.delta.is_some() && slot.weight.layout == ft_quant::Layout::InOut,
        _ => false,
    })
}
