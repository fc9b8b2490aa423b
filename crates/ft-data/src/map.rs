//! `data.map`: filling the fields of a format from columns with other names.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::config::DataConfig;
use crate::error::{Error, Flaw, Result, did_you_mean};
use crate::reference::Reference;

/// A record of a data file: column names and values, in the file's order.
pub(crate) type Fields = Map<String, Value>;

/// The parsed `data.map`; empty means that columns already have the names of the fields.
#[derive(Debug)]
pub(crate) struct Mapping(Vec<(String, Vec<Part>)>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Value(Reference),
}

impl Mapping {
    /// Parses the placeholders and, when the format is known, checks the keys against its fields.
    pub fn parse(config: &DataConfig) -> Result<Mapping> {
        let fields: Vec<&str> = config.format.map(|f| f.fields()).unwrap_or_default();
        let mut entries = Vec::new();
        for (field, text) in &config.map {
            if !fields.is_empty() && !fields.contains(&field.as_str()) {
                let hint = did_you_mean(field, &fields);
                let what = format!(
                    "this format has no such field{hint}; its fields are: {}",
                    fields.join(", ")
                );
                return Err(Error::Config {
                    key: format!("map.{field}"),
                    what,
                });
            }
            let parts = parse_parts(text).map_err(|what| Error::Config {
                key: format!("map.{field}"),
                what,
            })?;
            entries.push((field.clone(), parts));
        }
        Ok(Mapping(entries))
    }

    /// Whether columns already have the names of the fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names a record has after mapping.
    pub fn names<'a>(&'a self, columns: &'a Fields) -> Vec<&'a str> {
        match self.0.as_slice() {
            [] => columns.keys().map(String::as_str).collect(),
            entries => entries.iter().map(|(field, _)| field.as_str()).collect(),
        }
    }

    /// The record under the names of the format.
    pub fn apply(&self, columns: Fields) -> Result<Fields, Flaw> {
        if self.0.is_empty() {
            return Ok(columns);
        }
        self.0
            .iter()
            .map(|(field, parts)| Ok((field.clone(), fill(parts, &columns)?)))
            .collect()
    }
}

fn fill(parts: &[Part], columns: &Fields) -> Result<Value, Flaw> {
    if let [Part::Value(reference)] = parts {
        return reference.value(columns).map(Cow::into_owned);
    }
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(t) => text.push_str(t),
            Part::Value(reference) => push_plain(&mut text, reference.value(columns)?.as_ref()),
        }
    }
    Ok(Value::String(text))
}

/// The error for a column that is not there.
pub(crate) fn no_column(name: &str, columns: &Fields) -> Flaw {
    Flaw::NoColumn {
        column: name.into(),
        columns: columns.keys().cloned().collect(),
    }
}

/// Text as it is, nothing for null, JSON for everything else.
pub(crate) fn push_plain(text: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(s) => text.push_str(s),
        other => text.push_str(&other.to_string()),
    }
}

fn parse_parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = vec![];
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
        } else if brace == "}" {
            return Err(format!(
                "a closing brace without an opening one in {text:?}; write }}}} for a literal brace"
            ));
        } else {
            let end = rest.find(['{', '}']).filter(|&e| rest.as_bytes()[e] == b'}');
            let end = end.ok_or(format!("an unclosed brace in {text:?}; write {{{{ for a literal brace"))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Value(Reference::parse(&rest[..end])?));
            rest = &rest[end + 1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mapping(entries: &[(&str, &str)]) -> Mapping {
        let mut config = DataConfig::new("x");
        config.map = entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Mapping::parse(&config).unwrap()
    }

    fn fields(value: Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn fills_placeholders_and_keeps_braces() {
        let map = mapping(&[
            ("prompt", "Facts: {mr}\n{{x}} {n} {none}|{list}"),
            ("completion", "{ref}"),
        ]);
        let row = fields(json!({"mr": "a {b}", "ref": "c", "n": 1.5, "none": null, "list": [1, "x"]}));
        let filled = map.apply(row).unwrap();
        assert_eq!(filled["prompt"], "Facts: a {b}\n{x} 1.5 |[1,\"x\"]");
        assert_eq!(filled["completion"], "c");
    }

    #[test]
    fn a_lone_placeholder_keeps_the_value() {
        let map = mapping(&[("messages", "{dialog}")]);
        let dialog = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(
            map.apply(fields(json!({"dialog": dialog}))).unwrap()["messages"],
            dialog
        );
    }

    #[test]
    fn an_unknown_column_lists_the_columns() {
        let map = mapping(&[("prompt", "{mr}"), ("completion", "{reff}")]);
        let error = map
            .apply(fields(json!({"mr": "a", "ref": "b"})))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no column `reff` (did you mean `ref`?); the columns are: mr, ref"
        );
    }

    #[test]
    fn bad_placeholders_and_fields_are_config_errors() {
        let parse = |format: Option<&str>, field: &str, text: &str| {
            let mut config = DataConfig::new("x");
            config.format = format.map(|f| f.parse().unwrap());
            config.map.insert(field.into(), text.into());
            Mapping::parse(&config).map(|_| ()).unwrap_err().to_string()
        };
        assert!(parse(None, "prompt", "a {b").starts_with("data.map.prompt: an unclosed brace"));
        assert!(parse(None, "prompt", "a {b {c}").contains("unclosed"));
        assert!(parse(None, "prompt", "a } b").contains("closing brace"));
        let error = parse(Some("prompt-completion"), "promt", "{a}");
        assert!(
            error.contains("did you mean `prompt`?") && error.contains("prompt, completion"),
            "{error}"
        );
    }
}
