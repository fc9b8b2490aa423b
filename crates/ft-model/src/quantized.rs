//! What `config.json` says about quantized layers.

use std::path::Path;

use ft_quant::{Kind, Scheme};
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::config::{Keys, ModelConfig};
use crate::error::{Error, Result};

/// Key of the section.
const KEY: &str = "quantization_config";

/// The method whose matrices are unpacked while they are read.
pub(crate) const MXFP4: &str = "mxfp4";

/// The method that the section of a `config.json` names, where there is one.
pub(crate) fn method(raw: &Map<String, Value>) -> Option<&str> {
    let section = raw.get(KEY).filter(|section| !section.is_null())?;
    Some(section.get("quant_method").and_then(Value::as_str).unwrap_or(""))
}

/// Whether the quantization that the file names, if any, is one that can be read.
pub(crate) fn readable(keys: &Keys) -> Result<()> {
    let method = keys.raw.get(KEY).and_then(|section| section.get("quant_method"));
    match method.map(|method| method.as_str().unwrap_or("")) {
        None | Some("bitsandbytes" | MXFP4) => Ok(()),
        Some(_) => {
            let why = format!(
                "{} checkpoints cannot be read; bitsandbytes and mxfp4 ones can",
                method.expect("some")
            );
            Err(keys.error(KEY, why))
        }
    }
}

/// Whether the checkpoint in `dir` can be held so: not quantized yet, or in just this way.
///
/// # Errors
/// An impossible scheme, a checkpoint in other codes.
pub fn check_quantizable(config: &ModelConfig, scheme: Scheme, dir: &Path) -> Result<()> {
    let error = |why: String| Error::Config {
        path: dir.join("config.json"),
        key: KEY.into(),
        why,
    };
    scheme.check().map_err(|e| error(e.to_string()))?;
    if !config.is_quantized() {
        return Ok(());
    }
    match Checkpoint::open(dir)?.scheme() {
        Some(stored) if !stored.same_as(&scheme) => Err(error(format!(
            "this checkpoint is quantized already, as {stored}, and not as {scheme}; quantize the one it was made from, or \
             leave model.quant out"
        ))),
        _ => Ok(()),
    }
}

/// The section that transformers reads back, for layers computed in type `compute`.
pub(crate) fn config(scheme: Scheme, compute: &str) -> Value {
    let eight = scheme.kind == Kind::Int8;
    let kind = if eight { "fp4" } else { scheme.kind.name() };
    json!({
        "_load_in_4bit": !eight,
        "_load_in_8bit": eight,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": scheme.double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": !eight,
        "load_in_8bit": eight,
        "quant_method": "bitsandbytes",
    })
}
