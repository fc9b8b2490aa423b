use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Values by path pattern, in the order of the file: PEFT's `rank_pattern` and `alpha_pattern`. A key is a regular
/// expression for the end of a path; the first key that matches wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Patterns<T> {
    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value for `path`.
    pub fn get(&self, path: &str) -> Option<&T> {
        self.0
            .iter()
            .find(|(key, _)| matches(key, path))
            .map(|(_, value)| value)
    }

    /// The value of the first key that is found anywhere in `path`, as OSF takes its own patterns.
    pub fn found(&self, path: &str) -> Option<&T> {
        let within = |key: &str| Regex::new(key).is_ok_and(|regex| regex.is_match(path));
        self.0.iter().find(|(key, _)| within(key)).map(|(_, value)| value)
    }
}

fn matches(key: &str, path: &str) -> bool {
    Regex::new(&format!("^(?:.*\\.)?(?:{key})$")).is_ok_and(|regex| regex.is_match(path))
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table from path patterns to numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Patterns(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Patterns<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Patterns_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        std::collections::BTreeMap::<String, T>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_of_the_file_that_matches_wins() {
        let text = r#"{"layers.1.self_attn.q_proj": 16, "q_proj": 4, "q_.*": 2, "up_proj": 7}"#;
        let patterns: Patterns<usize> = serde_json::from_str(text).unwrap();
        assert_eq!(patterns.get("model.layers.1.self_attn.q_proj"), Some(&16));
        assert_eq!(patterns.get("model.layers.0.self_attn.q_proj"), Some(&4));
        assert_eq!(patterns.get("model.layers.0.mlp.gate_up_proj"), None);
        assert_eq!(
            serde_json::to_string(&patterns).unwrap(),
            text.replace(": ", ":").replace(", ", ",")
        );
    }
}
