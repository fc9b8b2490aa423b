//! `train.batch_size`: a number of samples (of rows with `data.pack = true`), or `"auto"`; and `train.memory`: `"8GB"`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// Samples in one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Count(usize),
    /// As many as fit into memory, at most those of one optimizer step.
    Auto,
}

impl BatchSize {
    /// The default, and what `"auto"` takes as a part of one optimizer step.
    pub const USUAL: usize = 8;

    /// The number; [`USUAL`](Self::USUAL) as long as it has not been worked out.
    pub fn count(self) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Auto => Self::USUAL,
        }
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count as u64),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Typed)
    }
}

struct Typed;

impl Visitor<'_> for Typed {
    type Value = BatchSize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number of samples, or \"auto\"")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<BatchSize, E> {
        match word {
            "auto" => Ok(BatchSize::Auto),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }

    fn visit_i64<E: Error>(self, count: i64) -> Result<BatchSize, E> {
        let count = usize::try_from(count).map_err(|_| E::invalid_value(Unexpected::Signed(count), &self))?;
        Ok(BatchSize::Count(count))
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<BatchSize, E> {
        self.visit_i64(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl JsonSchema for BatchSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BatchSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "description": "samples" },
            { "const": "auto", "description": "as many as fit" }
        ]})
    }
}

/// Bytes of `"8GB"`, `"512 MB"`, `"1.5GiB"`; powers of 1024, as memory is told everywhere here.
pub(crate) fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let power = match unit.trim().to_ascii_uppercase().as_str() {
        "B" => 0,
        "KB" | "KIB" => 1,
        "MB" | "MIB" => 2,
        "GB" | "GIB" => 3,
        "TB" | "TIB" => 4,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * 1024f64.powi(power)) as u64)
}
