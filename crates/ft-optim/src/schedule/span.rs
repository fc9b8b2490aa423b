//! A stretch of the run, written as a count of optimizer steps or as a share of all of them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

/// `10` means ten optimizer steps, `0.03` means three hundredths of the run, rounded up to a whole step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// Optimizer steps.
    Steps(u64),
    /// Share of the run's optimizer steps, at least 0 and below 1.
    Share(f64),
}

impl Span {
    /// Steps in a run of `total` steps.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => (total as f64 * share).ceil() as u64,
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Share(share) => write!(f, "{share}"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => serializer.serialize_u64(*steps),
            Self::Share(share) => serializer.serialize_f64(*share),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Typed)
    }
}

struct Typed;

impl Visitor<'_> for Typed {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number of steps, or a share of the run of at least 0 and below 1")
    }

    fn visit_u64<E: Error>(self, steps: u64) -> Result<Span, E> {
        Ok(Span::Steps(steps))
    }

    fn visit_i64<E: Error>(self, steps: i64) -> Result<Span, E> {
        let steps = u64::try_from(steps).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(steps), &self))?;
        Ok(Span::Steps(steps))
    }

    /// `1.0` is refused: it may mean one step or the whole run.
    fn visit_f64<E: Error>(self, share: f64) -> Result<Span, E> {
        if (0.0..1.0).contains(&share) {
            return Ok(Span::Share(share));
        }
        Err(E::invalid_value(serde::de::Unexpected::Float(share), &self))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "description": "optimizer steps" },
            { "type": "number", "minimum": 0, "exclusiveMaximum": 1, "description": "share of the run" }
        ]})
    }
}
