//! Rotary position embedding: angles by position (Su et al. 2021, arXiv:2104.09864), with the ways to stretch them for long contexts:
//! Llama 3.1's, YaRN (Peng et al. 2023, arXiv:2309.00071) and LongRoPE (Ding et al. 2024, arXiv:2402.13753).

#[cfg(test)]
mod tests;

use std::f64::consts::PI;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

/// Angles of rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Share of a head that turns; its first values.
    pub partial: f64,
    /// How the series is stretched.
    pub scaling: RopeScaling,
}

/// How the wavelengths are stretched beyond the length seen in pretraining.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Context length of the pretraining.
        original_max_position_embeddings: f64,
    },
    /// YaRN: dimensions that turn often in the original context are kept, the others divided by `factor`, a ramp between; queries and
    /// keys grow.
    Yarn {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Turns above which a dimension is kept.
        beta_fast: f64,
        /// Turns below which a dimension is divided.
        beta_slow: f64,
        /// Context length of the pretraining.
        original_max_position_embeddings: f64,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
        /// Factor of queries and keys.
        attention_factor: f64,
    },
    /// LongRoPE: a divisor for every wavelength; another list where a text is longer than the original context.
    LongRope {
        /// Divisors within the original context.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// Context length of the pretraining.
        original_max_position_embeddings: f64,
        /// Factor of queries and keys.
        attention_factor: f64,
    },
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (transformers 4). The error names the
    /// key and what is wrong with it.
    pub(crate) fn parse(config: &Value) -> Result<Self, (String, String)> {
        let (section, name) = match (config.get("rope_parameters"), config.get("rope_scaling")) {
            (Some(v), _) if v.is_object() => (v, "rope_parameters"),
            (_, Some(v)) if v.is_object() => (v, "rope_scaling"),
            _ => (&Value::Null, "rope_scaling"),
        };
        let section = Section { section, name, config };
        let kind = section.own("rope_type").or_else(|| section.own("type"));
        let scaling = match kind.and_then(Value::as_str).unwrap_or("default") {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear {
                factor: section.number("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: section.number("factor")?,
                low_freq_factor: section.number("low_freq_factor")?,
                high_freq_factor: section.number("high_freq_factor")?,
                original_max_position_embeddings: section.number("original_max_position_embeddings")?,
            },
            "yarn" => section.yarn()?,
            // Phi 3's first files say "su".
            "longrope" | "su" => section.longrope()?,
            other => {
                let why =
                    format!("\"{other}\" is not supported; supported are default, linear, llama3, yarn, longrope");
                return Err((format!("{name}.rope_type"), why));
            }
        };
        Ok(Self {
            theta: section.optional("rope_theta")?.unwrap_or(10_000.0),
            partial: section.optional("partial_rotary_factor")?.unwrap_or(1.0),
            scaling,
        })
    }

    /// What does not go with heads of this width: key and reason.
    pub(crate) fn check(&self, head_dim: usize) -> Result<(), (&'static str, String)> {
        if !(self.partial > 0.0 && self.partial <= 1.0) {
            let why = format!("must be above 0 and at most 1, got {}", self.partial);
            return Err(("partial_rotary_factor", why));
        }
        let dims = self.dims(head_dim);
        if dims == 0 || !dims.is_multiple_of(2) {
            let why = format!("{dims} values of a head would turn; rotary embedding needs an even number of them");
            return Err(("head_dim", why));
        }
        if let RopeScaling::LongRope {
            short_factor,
            long_factor,
            ..
        } = &self.scaling
        {
            for (key, list) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                if list.len() != dims / 2 {
                    return Err((key, format!("{} entries for {} wavelengths", list.len(), dims / 2)));
                }
            }
        }
        Ok(())
    }

    /// Values of a head that turn.
    pub(crate) fn dims(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.partial) as usize
    }

    /// Inverse wavelengths `[dims / 2]` for texts of `length` tokens, computed in f32 as the reference does.
    pub(crate) fn inverse_frequencies(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let dims = self.dims(head_dim);
        let series = (0..dims / 2).map(|i| {
            let exponent = (2 * i) as f32 / dims as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        match &self.scaling {
            RopeScaling::Default => series.collect(),
            RopeScaling::Linear { factor } => series.map(|f| f / *factor as f32).collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let (low, high) = (*low_freq_factor as f32, *high_freq_factor as f32);
                let original = *original_max_position_embeddings as f32;
                let apply = |frequency: f32| {
                    let wavelength = 2.0 * std::f32::consts::PI / frequency;
                    let turns = original / wavelength;
                    let scaled = frequency / *factor as f32;
                    match () {
                        () if turns < low => scaled,
                        () if turns > high => frequency,
                        () => {
                            let smooth = (turns - low) / (high - low);
                            (1.0 - smooth) * scaled + smooth * frequency
                        }
                    }
                };
                series.map(apply).collect()
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                truncate,
                ..
            } => {
                // The dimension that makes so many turns in the original context.
                let turning = |turns: f64| {
                    let ratio = original_max_position_embeddings / (turns * 2.0 * PI);
                    dims as f64 * ratio.ln() / (2.0 * self.theta.ln())
                };
                let [low, high] = match truncate {
                    true => [turning(*beta_fast).floor(), turning(*beta_slow).ceil()],
                    false => [turning(*beta_fast), turning(*beta_slow)],
                };
                let (low, mut high) = (low.max(0.0), high.min(dims as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let blend = |(i, frequency): (usize, f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    frequency / *factor as f32 * ramp + frequency * (1.0 - ramp)
                };
                series.enumerate().map(blend).collect()
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                ..
            } => {
                let list = match length as f64 > *original_max_position_embeddings {
                    true => long_factor,
                    false => short_factor,
                };
                series.zip(list).map(|(f, factor)| f / *factor as f32).collect()
            }
        }
    }

    /// Factor of queries and keys.
    fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                *attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// `(cos, sin)`, each `[rows, seq, dims / 2]` in f32, for the positions of each row.
    pub(crate) fn tables(&self, positions: &[Vec<usize>], head_dim: usize, device: &Device) -> (Tensor<3>, Tensor<3>) {
        let half = self.dims(head_dim) / 2;
        let shape = [positions.len(), positions[0].len(), half];
        let (count, last) = (
            shape[0] * shape[1],
            positions.iter().flatten().max().copied().unwrap_or(0),
        );
        let frequencies = self.inverse_frequencies(head_dim, last + 1);
        let (sin, cos) = match count > last + 1 {
            false => self.angles(positions.iter().flatten().copied(), &frequencies),
            // Positions come more than once: each is computed once.
            true => {
                let (sin, cos) = self.angles(0..=last, &frequencies);
                let of = |table: &[f32]| -> Vec<f32> {
                    let values = positions
                        .iter()
                        .flatten()
                        .flat_map(|p| &table[p * half..(p + 1) * half]);
                    values.copied().collect()
                };
                (of(&sin), of(&cos))
            }
        };
        let table = |values| Tensor::from_data(TensorData::new(values, shape), device);
        (table(cos), table(sin))
    }

    /// `(sin, cos)` of these positions, `[positions, dims / 2]`.
    fn angles(&self, positions: impl Iterator<Item = usize>, frequencies: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let angles = positions.flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let factor = self.attention_factor();
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        match factor == 1.0 {
            true => (sin, cos),
            false => {
                let scaled = |values: Vec<f32>| values.into_iter().map(|x| x * factor).collect();
                (scaled(sin), scaled(cos))
            }
        }
    }
}

impl RopeScaling {
    /// Whether this is YaRN with the paper's constants, or no YaRN.
    pub(crate) fn is_plain_yarn(&self) -> bool {
        match *self {
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
                ..
            } => {
                let paper = 0.1 * factor.max(1.0).ln() + 1.0;
                truncate && [beta_fast, beta_slow] == [32.0, 1.0] && (attention_factor - paper).abs() < 1e-6
            }
            _ => true,
        }
    }
}

/// The section that says how, in a configuration.
struct Section<'a> {
    section: &'a Value,
    name: &'static str,
    config: &'a Value,
}

type Parsed<T> = Result<T, (String, String)>;

impl Section<'_> {
    fn own(&self, key: &str) -> Option<&Value> {
        self.section.get(key).filter(|value| !value.is_null())
    }

    /// Of the section, or else of the configuration.
    fn optional(&self, key: &str) -> Parsed<Option<f64>> {
        let value = self.own(key).or_else(|| self.config.get(key));
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let why = || format!("a number above 0 is needed, got {value}");
        number.map(Some).ok_or_else(|| (format!("{}.{key}", self.name), why()))
    }

    fn number(&self, key: &str) -> Parsed<f64> {
        let found = self.optional(key)?;
        found.ok_or_else(|| (format!("{}.{key}", self.name), "a number is needed here".to_string()))
    }

    fn list(&self, key: &str) -> Parsed<Vec<f64>> {
        let positive = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        let list = self.own(key).and_then(Value::as_array);
        let numbers = list.and_then(|list| list.iter().map(positive).collect::<Option<Vec<f64>>>());
        numbers.ok_or_else(|| {
            (
                format!("{}.{key}", self.name),
                "a list of numbers above 0 is needed here".into(),
            )
        })
    }

    fn yarn(&self) -> Parsed<RopeScaling> {
        let (factor, original) = self.stretched()?;
        let growth = |scale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * scale * factor.ln() + 1.0
            }
        };
        let inferred = match (self.optional("mscale")?, self.optional("mscale_all_dim")?) {
            (Some(some), Some(all)) => growth(some) / growth(all),
            _ => growth(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.optional("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.optional("beta_slow")?.unwrap_or(1.0),
            original_max_position_embeddings: original,
            truncate: self.own("truncate").and_then(Value::as_bool).unwrap_or(true),
            attention_factor: self.optional("attention_factor")?.unwrap_or(inferred),
        })
    }

    fn longrope(&self) -> Parsed<RopeScaling> {
        let (factor, original) = self.stretched()?;
        let inferred = match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.list("short_factor")?,
            long_factor: self.list("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: self.optional("attention_factor")?.unwrap_or(inferred),
        })
    }

    /// By how much the context grew, and from what.
    fn stretched(&self) -> Parsed<(f64, f64)> {
        let longest = self.optional("max_position_embeddings")?;
        let original = match self.optional("original_max_position_embeddings")?.or(longest) {
            Some(original) => original,
            None => self.number("original_max_position_embeddings")?,
        };
        let factor = self.own("factor").and_then(Value::as_f64);
        let factor = factor.or(longest.map(|longest| longest / original));
        factor
            .map(|factor| (factor, original))
            .ok_or_else(|| (format!("{}.factor", self.name), "a number is needed here".into()))
    }
}
