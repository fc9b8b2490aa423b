//! `data.cache`: whether tokens are kept on the disk.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

/// The values of `data.cache`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Of sets of [`LARGE`] and more.
    #[default]
    Auto,
    /// Of every set.
    On,
    /// Of none.
    Off,
    /// Of every set, in this folder.
    Folder(PathBuf),
}

/// Bytes of data files from which on `"auto"` caches: what is smaller is tokenized in a few seconds.
pub const LARGE: u64 = 32 << 20;

impl Serialize for Cache {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cache::Auto => serializer.serialize_str("auto"),
            Cache::On => serializer.serialize_bool(true),
            Cache::Off => serializer.serialize_bool(false),
            Cache::Folder(folder) => folder.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Cache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Typed)
    }
}

struct Typed;

impl Visitor<'_> for Typed {
    type Value = Cache;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("true, false, \"auto\", or a folder")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Cache, E> {
        Ok(if on { Cache::On } else { Cache::Off })
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Cache, E> {
        match word {
            "auto" => Ok(Cache::Auto),
            "" => Err(E::custom(
                "an empty text names no folder; true, false, \"auto\", or a folder",
            )),
            folder => Ok(Cache::Folder(folder.into())),
        }
    }
}

impl JsonSchema for Cache {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cache".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "boolean", "description": "keep tokens in the user's cache folder, or nowhere" },
            { "const": "auto", "description": "keep those of large sets" },
            { "type": "string", "description": "the folder to keep them in" }
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_takes_words_and_folders() {
        let parse = |text: &str| serde_json::from_str::<Cache>(text);
        for (text, cache) in [
            ("\"auto\"", Cache::Auto),
            ("true", Cache::On),
            ("false", Cache::Off),
            ("\"tokens/here\"", Cache::Folder("tokens/here".into())),
        ] {
            assert_eq!(parse(text).unwrap(), cache);
            assert_eq!(serde_json::to_string(&cache).unwrap(), text);
        }
        for wrong in ["\"\"", "3"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("true, false, \"auto\", or a folder"), "{error}");
        }
    }
}
