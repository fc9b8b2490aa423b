//! AdapterHub's folders (the `adapters` library): `adapter_config.json` with a nested `config`, and `adapter.safetensors`
//! whose tensor names contain the adapter's name.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::methods::common::checked;
use crate::methods::ia3::Ia3Config;
use crate::methods::lora::LoraConfig;
use crate::methods::{PeftConfig, bottleneck};
use crate::peft_config::File;
use crate::targets::Targets;

/// The version of the library whose layout this is.
const VERSION: &str = "adapters.1.3.0";

/// Tensors of an adapter.
pub(crate) const WEIGHTS: &str = "adapter.safetensors";
/// The same as a pickle, which is not read.
pub(crate) const PICKLE: &str = "pytorch_adapter.bin";

/// Tensors of a head for labels that is saved with the adapter, under the names of the checkpoint.
pub(crate) const HEAD_WEIGHTS: &str = "model_head.safetensors";
/// What says which head that is.
pub(crate) const HEAD_CONFIG: &str = "head_config.json";

/// Whether an `adapter_config.json` is AdapterHub's.
pub(crate) fn is_ours(object: &Map<String, Value>) -> bool {
    !object.contains_key("peft_type") && object.get("config").is_some_and(Value::is_object)
}

/// Method, options and name of the adapter that `object`, an `adapter_config.json` read from `path`, describes.
pub(crate) fn parse(object: &Map<String, Value>, path: &Path) -> Result<(PeftConfig, String)> {
    let whole = File { object, path };
    let name: String = whole.need("name")?;
    let Some(config) = object.get("config").and_then(Value::as_object) else {
        return Err(whole.error("config", "missing"));
    };
    let file = File { object: config, path };
    let architecture: Option<String> = file.read("architecture")?;
    let method = match architecture.as_deref() {
        None => bottleneck::file::parse(&file, &name)?,
        Some("lora") => low_rank(&file)?,
        Some(other) => {
            let why = format!(
                "\"{other}\" of AdapterHub is not supported; bottleneck adapters (seq_bn, double_seq_bn, par_bn), lora and \
                 ia3 are"
            );
            return Err(file.error("config.architecture", &why));
        }
    };
    Ok((method, name))
}

/// The `adapter_config.json` of an adapter; `model` is the base's `model_type` and class, `hidden` its width.
pub(crate) fn record(name: &str, config: Value, model: (&str, &str), hidden: usize, base: &str) -> Value {
    let (model_type, class) = model;
    json!({
        "config": config,
        "hidden_size": hidden,
        "model_class": class,
        "model_name": base,
        "model_type": model_type,
        "name": name,
        "version": VERSION,
    })
}

/// The `head_config.json` of a head with so many outputs, beside the adapter of a model that is described as in [`record`].
pub(crate) fn head_record(outputs: usize, model: (&str, &str), hidden: usize, base: &str) -> Value {
    let (model_type, class) = model;
    let labels: Map<String, Value> = (0..outputs).map(|id| (format!("LABEL_{id}"), id.into())).collect();
    json!({
        "config": null,
        "hidden_size": hidden,
        "label2id": labels,
        "model_class": class,
        "model_name": base,
        "model_type": model_type,
        "name": null,
        "num_labels": outputs,
        "version": VERSION,
    })
}

/// PEFT's task type of the head that a `head_config.json` describes.
pub(crate) fn task(head: &Value) -> Option<&'static str> {
    let class = head.get("model_class").and_then(Value::as_str)?;
    let tasks = [
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
    ];
    tasks
        .into_iter()
        .find_map(|(end, task)| class.ends_with(end).then_some(task))
}

/// Fails for what a model with its norms behind the sub-layers would compute in another way than one with its norms before them.
pub(crate) fn fits_norms_behind(object: &Map<String, Value>, path: &Path) -> Result<()> {
    let Some(config) = object.get("config").and_then(Value::as_object) else {
        return Ok(());
    };
    let file = File { object: config, path };
    for key in ["original_ln_after", "residual_before_ln"] {
        if !file.read(key)?.unwrap_or(true) {
            return Err(file.error(
                key,
                "must be true for this model, which normalizes behind its sub-layers",
            ));
        }
    }
    Ok(())
}

/// The tensor that PEFT's file would call `leaf`, at the module `path`.
pub(crate) fn tensor_name(path: &str, leaf: &str, adapter: &str) -> String {
    match leaf {
        "lora_A.weight" => format!("{path}.loras.{adapter}.lora_A"),
        "lora_B.weight" | "ia3_l" => format!("{path}.loras.{adapter}.lora_B"),
        other => format!("{path}.adapters.{adapter}.{other}"),
    }
}

/// LoRA and IA3, which are one class there: `composition_mode` tells them apart.
fn low_rank(file: &File<'_>) -> Result<PeftConfig> {
    file.refuse(&["use_dora", "use_gating", "vera_d", "vera_b", "leave_out"])?;
    let targets = Targets::Suffixes(low_rank_targets(file)?);
    let (rank, alpha): (usize, f64) = (file.need("r")?, file.need("alpha")?);
    let mode: String = file.need("composition_mode")?;
    match mode.as_str() {
        "add" => checked(LoraConfig {
            rank,
            alpha,
            dropout: file.read("dropout")?.unwrap_or(0.0),
            targets,
            ..LoraConfig::default()
        })
        .map(PeftConfig::Lora),
        "scale" if rank == 1 && alpha == 1.0 => checked(Ia3Config {
            targets,
            feedforward: Targets::Suffixes(Vec::new()),
            ..Ia3Config::default()
        })
        .map(PeftConfig::Ia3),
        "scale" => Err(file.error("config.alpha", "IA3 is read with r and alpha 1 only")),
        other => Err(file.error(
            "config.composition_mode",
            &format!("\"{other}\" is neither add nor scale"),
        )),
    }
}

/// What the library adapts in Llama and Mistral, its only families here with one matrix per projection.
fn low_rank_targets(file: &File<'_>) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    if file.read("selfattn_lora")?.unwrap_or(true) {
        let matrices: Vec<String> = file.need("attn_matrices")?;
        targets.extend(matrices.iter().map(|matrix| format!("{matrix}_proj")));
    }
    for (key, target) in [("intermediate_lora", "down_proj"), ("output_lora", "up_proj")] {
        if file.read(key)?.unwrap_or(false) {
            targets.push(target.into());
        }
    }
    Ok(targets)
}

/// What to do about a folder that has only a pickle.
pub(crate) fn pickle(folder: &Path) -> Error {
    let why = format!("holds a pickle ({PICKLE}); save it again with save_adapter(.., use_safetensors=True)");
    Error::Format {
        path: folder.into(),
        why,
    }
}
