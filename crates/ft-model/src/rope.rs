//! Rotary position embedding: angles by position (Su et al. 2021, arXiv:2104.09864), with the scaling that
//! Llama 3.1 uses for long contexts.

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

/// Angles of rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
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
        let theta = section
            .get("rope_theta")
            .or_else(|| config.get("rope_theta"))
            .and_then(Value::as_f64);
        let number = |key: &str| {
            let found = section.get(key).and_then(Value::as_f64);
            found.ok_or_else(|| (format!("{name}.{key}"), "a number is needed here".to_string()))
        };
        let kind = section
            .get("rope_type")
            .or_else(|| section.get("type"))
            .and_then(Value::as_str);
        let scaling = match kind.unwrap_or("default") {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear {
                factor: number("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            },
            other => {
                let why = format!("\"{other}\" is not supported; supported are default, linear, llama3");
                return Err((format!("{name}.rope_type"), why));
            }
        };
        Ok(Self {
            theta: theta.unwrap_or(10_000.0),
            scaling,
        })
    }

    /// Inverse wavelengths `[head_dim / 2]`, computed in f32 as the reference does.
    pub(crate) fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let series = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        series.map(|f| self.scaling.apply(f)).collect()
    }

    /// `(cos, sin)`, each `[rows, seq, head_dim / 2]` in f32, for the positions of each row.
    pub(crate) fn tables(&self, positions: &[Vec<usize>], head_dim: usize, device: &Device) -> (Tensor<3>, Tensor<3>) {
        let shape = [positions.len(), positions[0].len(), head_dim / 2];
        let (count, last) = (
            shape[0] * shape[1],
            positions.iter().flatten().max().copied().unwrap_or(0),
        );
        let (sin, cos) = match count > last + 1 {
            false => self.angles(positions.iter().flatten().copied(), head_dim),
            // Positions come more than once: each is computed once.
            true => {
                let (sin, cos) = self.angles(0..=last, head_dim);
                let of = |table: &[f32]| -> Vec<f32> {
                    let half = head_dim / 2;
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

    /// `(sin, cos)` of these positions, `[positions, head_dim / 2]`.
    fn angles(&self, positions: impl Iterator<Item = usize>, head_dim: usize) -> (Vec<f32>, Vec<f32>) {
        let frequencies = self.inverse_frequencies(head_dim);
        let angles = positions.flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        angles.map(f32::sin_cos).unzip()
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                let turns = original_max_position_embeddings as f32 / wavelength;
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                let scaled = frequency / factor as f32;
                if turns < low {
                    scaled
                } else if turns > high {
                    frequency
                } else {
                    let smooth = (turns - low) / (high - low);
                    (1.0 - smooth) * scaled + smooth * frequency
                }
            }
        }
    }
}
