//! Rotary embedding: `rope.*` and the tensors of factors.

use serde_json::{Map, Value as Json, json as object};

use super::json;
use super::keys::Arch;
use crate::error::Result;
use crate::rope::{Rope, RopeScaling};

/// A divisor for each frequency, as Llama 3.1 has it; within the original context and beyond it, as Phi 3 has it.
const FACTORS: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Tensors that are a part of the configuration.
pub(super) const TENSORS: [&str; 3] = [FACTORS, SHORT, LONG];

pub(super) fn keys(arch: &Arch, keys: &mut Map<String, Json>) -> Result<()> {
    if arch.own.name == "gpt2" {
        return Ok(());
    }
    if let Some(base) = arch.number("rope.freq_base")? {
        keys.insert("rope_theta".into(), json(base));
    }
    let (head_dim, turned) = (arch.head_dim()?, arch.size("rope.dimension_count")?);
    if let Some(turned) = turned.filter(|turned| *turned != head_dim) {
        let share = turned as f64 / head_dim.max(1) as f64;
        keys.insert("partial_rotary_factor".into(), json(share));
    }
    if let Some(scaling) = scaling(arch, keys)? {
        keys.insert("rope_scaling".into(), scaling);
    }
    Ok(())
}

fn scaling(arch: &Arch, keys: &Map<String, Json>) -> Result<Option<Json>> {
    let context = arch.needed("context_length")?;
    let original = arch.size("rope.scaling.original_context_length")?;
    let list = |name: &str| arch.said.file.tensor(name).map(|tensor| arch.said.file.values(tensor));
    if let (Some(short), Some(long)) = (list(SHORT), list(LONG)) {
        let mut section = object!({
            "rope_type": "longrope", "short_factor": numbers(&short), "long_factor": numbers(&long),
            "original_max_position_embeddings": original.unwrap_or(context),
        });
        if let Some(factor) = arch.number("rope.scaling.attn_factor")? {
            section["attention_factor"] = json(factor);
        }
        return Ok(Some(section));
    }
    if let Some(factors) = list(FACTORS) {
        return Ok(Some(llama3(&factors, keys).unwrap_or_else(|| {
            object!({
                "rope_type": "longrope", "short_factor": numbers(&factors), "long_factor": numbers(&factors),
                "original_max_position_embeddings": context, "factor": 1.0, "attention_factor": 1.0,
            })
        })));
    }
    let key = "rope.scaling.type";
    let kind = arch.said.value(&arch.key(key)).and_then(|value| value.as_str());
    let factor = arch.number("rope.scaling.factor")?;
    let needed = || {
        let key = arch.key("rope.scaling.factor");
        factor.ok_or_else(|| arch.said.error(&key, "missing".into()))
    };
    let only = |key: &str, value: f64| match arch.number(key)? {
        Some(other) if (other - value).abs() > 1e-6 => {
            let why = format!("{other} is not computed here; {value} is");
            Err(arch.said.error(&arch.key(key), why))
        }
        _ => Ok(()),
    };
    match kind {
        Some("yarn") => {
            let factor = needed()?;
            only("rope.scaling.attn_factor", 1.0)?;
            only("rope.scaling.yarn_beta_fast", 32.0)?;
            only("rope.scaling.yarn_beta_slow", 1.0)?;
            Ok(Some(object!({
                "rope_type": "yarn", "factor": json(factor), "original_max_position_embeddings": original.unwrap_or(context),
            })))
        }
        Some("linear") => Ok(Some(object!({ "rope_type": "linear", "factor": json(needed()?) }))),
        None | Some("none") => {
            let factor = arch.number("rope.scale_linear")?.filter(|factor| *factor != 1.0);
            Ok(factor.map(|factor| object!({ "rope_type": "linear", "factor": json(factor) })))
        }
        Some(other) => {
            let why = format!("\"{other}\" is not computed here without {SHORT} and {LONG}; none, linear and yarn are");
            Err(arch.said.error(&arch.key(key), why))
        }
    }
}

fn numbers(list: &[f32]) -> Vec<Json> {
    let shortest = |value: &f32| value.to_string().parse().map_or(Json::Null, json);
    list.iter().map(shortest).collect()
}

/// The numbers of Llama 3.1's scaling that such factors come from, if they do: its ramp lies between a fourth of the original context and
/// all of it in every model, and what a wavelength on the ramp is divided by says what that context was.
fn llama3(factors: &[f32], keys: &Map<String, Json>) -> Option<Json> {
    let theta = keys.get("rope_theta").and_then(Json::as_f64).unwrap_or(10_000.0);
    let head_dim = 2 * factors.len();
    let factor = f64::from(*factors.last()?).round();
    let plain = Rope {
        theta,
        partial: 1.0,
        scaling: RopeScaling::Default,
    };
    let frequencies = plain.inverse_frequencies(head_dim, 1);
    let on_ramp = |divisor: &f32| f64::from(*divisor) > 1.0 + 1e-4 && f64::from(*divisor) < factor - 1e-3;
    let at = factors.iter().position(on_ramp)?;
    let smooth = (1.0 / f64::from(factors[at]) - 1.0 / factor) / (1.0 - 1.0 / factor);
    let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequencies[at]);
    let original = (wavelength * (1.0 + 3.0 * smooth)).round();
    let scaled = Rope {
        scaling: RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        },
        ..plain
    };
    let again = scaled.inverse_frequencies(head_dim, 1);
    let same = frequencies
        .iter()
        .zip(&again)
        .zip(factors)
        .all(|((plain, scaled), factor)| (plain / scaled / factor - 1.0).abs() < 1e-5);
    same.then(|| {
        object!({
            "rope_type": "llama3", "factor": json(factor), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original as u64,
        })
    })
}
