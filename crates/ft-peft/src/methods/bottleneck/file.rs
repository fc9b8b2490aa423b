//! Bottleneck adapters in AdapterHub's `adapter_config.json`, both ways.

use serde_json::{Value, json};

use super::{BottleneckConfig, InitWeights, NonLinearity, Pfeiffer, Preset, ReductionFactor};
use crate::error::Result;
use crate::methods::PeftConfig;
use crate::methods::common::checked;
use crate::peft_config::{File, number};

/// What is read, beside what every adapter may have at its default.
const KNOWN: [&str; 12] = [
    "dropout",
    "init_weights",
    "is_parallel",
    "leave_out",
    "mh_adapter",
    "non_linearity",
    "original_ln_after",
    "original_ln_before",
    "output_adapter",
    "reduction_factor",
    "residual_before_ln",
    "scaling",
];

/// Options that act only with others which are refused, or only at the start of training.
const IDLE: [&str; 13] = [
    "adapter_residual_before_ln",
    "architecture",
    "factorized_phm_W",
    "factorized_phm_rule",
    "hypercomplex_nonlinearity",
    "init_weights_seed",
    "inv_adapter_reduction_factor",
    "learn_phm",
    "phm_bias",
    "phm_c_init",
    "phm_dim",
    "phm_init_range",
    "phm_rank",
];

pub(super) fn write<P>(config: &BottleneckConfig<P>) -> Value {
    let factor = match &config.reduction_factor {
        ReductionFactor::All(factor) => number(*factor),
        ReductionFactor::ByLayer(map) => map.iter().map(|(layer, f)| (layer.clone(), number(*f))).collect(),
    };
    json!({
        "adapter_residual_before_ln": false,
        "cross_adapter": false,
        "dropout": config.dropout,
        "factorized_phm_W": true,
        "factorized_phm_rule": false,
        "hypercomplex_nonlinearity": "glorot-uniform",
        "init_weights": config.init_weights,
        "init_weights_seed": null,
        "inv_adapter": null,
        "inv_adapter_reduction_factor": null,
        "is_parallel": config.is_parallel,
        "learn_phm": true,
        "leave_out": config.leave_out,
        "ln_after": false,
        "ln_before": false,
        "mh_adapter": config.mh_adapter,
        "non_linearity": config.non_linearity,
        "original_ln_after": true,
        "original_ln_before": config.original_ln_before,
        "output_adapter": config.output_adapter,
        "phm_bias": true,
        "phm_c_init": "normal",
        "phm_dim": 4,
        "phm_init_range": 0.0001,
        "phm_layer": false,
        "phm_rank": 1,
        "reduction_factor": factor,
        "residual_before_ln": true,
        "scaling": config.scaling,
        "shared_W_phm": false,
        "shared_phm_rule": true,
        "stochastic_depth": 0.0,
        "use_gating": false,
    })
}

/// Options from AdapterHub's `config`, for the adapter called `name`.
pub(crate) fn parse(file: &File<'_>, name: &str) -> Result<PeftConfig> {
    let others = file.object.keys().map(String::as_str);
    let others: Vec<&str> = others
        .filter(|key| !KNOWN.contains(key) && !IDLE.contains(key) && !key.starts_with("shared_"))
        .collect();
    file.refuse(&others)?;
    joins_once(file)?;
    let (attention, output) = (file.need("mh_adapter")?, file.need("output_adapter")?);
    let parallel = file.read("is_parallel")?.unwrap_or(false);
    let config = read(file, name)?;
    match (parallel, attention && output) {
        (true, _) => checked(config.of()).map(PeftConfig::Parallel),
        (false, true) => checked(config.of()).map(PeftConfig::Houlsby),
        (false, false) => checked(config).map(PeftConfig::Pfeiffer),
    }
}

fn read(file: &File<'_>, name: &str) -> Result<BottleneckConfig<Pfeiffer>> {
    let is_parallel = file.read("is_parallel")?.unwrap_or(false);
    let original_ln_before = file.read("original_ln_before")?.unwrap_or(false);
    Ok(BottleneckConfig {
        reduction_factor: file.need("reduction_factor")?,
        non_linearity: non_linearity(file)?,
        mh_adapter: file.need("mh_adapter")?,
        output_adapter: file.need("output_adapter")?,
        original_ln_before: original_ln_before && !is_parallel,
        is_parallel,
        scaling: file.read("scaling")?.unwrap_or(1.0),
        dropout: file.read("dropout")?.unwrap_or(0.0),
        init_weights: file.read("init_weights")?.unwrap_or(InitWeights::Bert),
        leave_out: file.read("leave_out")?.unwrap_or_default(),
        name: name.into(),
        ..Pfeiffer::defaults()
    })
}

/// The library compares names without regard to case.
fn non_linearity(file: &File<'_>) -> Result<NonLinearity> {
    let name: String = file.need("non_linearity")?;
    let value = Value::String(name.to_lowercase());
    serde_json::from_value(value).map_err(|e| file.error("non_linearity", &format!("\"{name}\": {e}")))
}

/// In a decoder with the norms before its sub-layers, the flags about AdapterHub's "original layer norm" say how often the
/// residual is added. Only once is a decoder's residual stream.
///
/// In an encoder with the norms behind them, a norm goes with the residual: that is computed where the flags are at their defaults.
fn joins_once(file: &File<'_>) -> Result<()> {
    let flag = |key: &str, default| file.read(key).map(|value| value.unwrap_or(default));
    let after: bool = flag("original_ln_after", true)?;
    let before = flag("original_ln_before", false)? && !flag("is_parallel", false)?;
    let around_output = flag("residual_before_ln", true)? || !before;
    let times = usize::from(after) + usize::from(!around_output);
    if times == 1 {
        return Ok(());
    }
    let why = format!(
        "{after}: with original_ln_before and residual_before_ln as they are, the residual stream would be added {times} \
         times; only once is supported"
    );
    Err(file.error("original_ln_after", &why))
}
