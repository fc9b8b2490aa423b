//! `train.checkpointing`: `"off"`, or a number of blocks.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// What the blocks keep between forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpointing {
    /// Everything.
    #[default]
    Off,
    /// The input of every so many blocks, at least 1.
    Every(usize),
}

impl fmt::Display for Checkpointing {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Every(blocks) => write!(f, "{blocks}"),
        }
    }
}

impl Serialize for Checkpointing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Every(blocks) => serializer.serialize_u64(*blocks as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Typed)
    }
}

struct Typed;

impl Visitor<'_> for Typed {
    type Value = Checkpointing;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("\"off\", or a number of blocks of at least 1")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Checkpointing, E> {
        match word {
            "off" => Ok(Checkpointing::Off),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }

    fn visit_i64<E: Error>(self, blocks: i64) -> Result<Checkpointing, E> {
        match usize::try_from(blocks) {
            Ok(blocks) if blocks > 0 => Ok(Checkpointing::Every(blocks)),
            _ => Err(E::invalid_value(Unexpected::Signed(blocks), &self)),
        }
    }

    fn visit_u64<E: Error>(self, blocks: u64) -> Result<Checkpointing, E> {
        self.visit_i64(i64::try_from(blocks).unwrap_or(i64::MAX))
    }
}

impl JsonSchema for Checkpointing {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Checkpointing".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "const": "off", "description": "keep everything" },
            { "type": "integer", "minimum": 1, "description": "blocks between two kept inputs" }
        ]})
    }
}
