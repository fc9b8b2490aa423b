//! What stands between the braces of a `data.map` placeholder: a column, a way into its value, and `join`.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::Flaw;
use crate::map::{Fields, no_column, push_plain};

/// `column`, `column.key[0][-1]`, and either with `|join(", ")` behind it.
#[derive(Debug, PartialEq)]
pub(crate) struct Reference {
    /// As typed, without `join`: a column may be called so.
    whole: String,
    column: String,
    steps: Vec<Step>,
    separator: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    /// From the end where it is negative.
    Index(i64),
}

impl Reference {
    /// # Errors
    /// A reason, where brackets, dots or `join` are not as above.
    pub fn parse(text: &str) -> Result<Reference, String> {
        let (whole, separator) = match text.split_once('|') {
            Some((path, filter)) => (path.trim(), Some(separator(filter.trim())?)),
            None => (text.trim(), None),
        };
        let end = whole.find(['.', '[']).unwrap_or(whole.len());
        let (column, mut rest) = whole.split_at(end);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest)
                .ok_or_else(|| format!("`{whole}` is no column and no way into one; write column.key or column[0]"))?;
            steps.push(step);
            rest = after;
        }
        Ok(Reference {
            column: column.to_owned(),
            whole: whole.to_owned(),
            steps,
            separator,
        })
    }

    /// The value in a record.
    pub fn value<'a>(&self, columns: &'a Fields) -> Result<Cow<'a, Value>, Flaw> {
        let value = match columns.get(&self.whole) {
            Some(value) => Cow::Borrowed(value),
            None => Cow::Owned(self.walk(columns)?),
        };
        match &self.separator {
            Some(separator) => Ok(Cow::Owned(Value::String(join(value.into_owned(), separator)))),
            None => Ok(value),
        }
    }

    fn walk(&self, columns: &Fields) -> Result<Value, Flaw> {
        let missing = || no_column(&self.column, columns);
        let mut value = columns.get(&self.column).ok_or_else(missing)?.clone();
        for step in &self.steps {
            // In CSV files, lists and objects stand as JSON.
            if let Value::String(text) = &value
                && let Ok(parsed @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text)
            {
                value = parsed;
            }
            value = step.take(value).map_err(|what| Flaw::Path {
                path: self.whole.clone(),
                what,
            })?;
        }
        Ok(value)
    }
}

/// The items of a list with a separator between them; anything else stands for itself.
fn join(value: Value, separator: &str) -> String {
    let items = match value {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        Value::String(text) if text.trim_start().starts_with('[') => match serde_json::from_str(&text) {
            Ok(Value::Array(items)) => items,
            _ => vec![Value::String(text)],
        },
        other => vec![other],
    };
    let mut text = String::new();
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push_str(separator);
        }
        push_plain(&mut text, item);
    }
    text
}

impl Step {
    fn take(&self, value: Value) -> Result<Value, String> {
        match (self, value) {
            (Step::Key(key), Value::Object(mut fields)) => fields.remove(key).ok_or_else(|| {
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                format!("there is no `{key}`, only: {}", names.join(", "))
            }),
            (Step::Index(index), Value::Array(mut items)) => {
                let length = items.len();
                let at = match *index < 0 {
                    true => length.checked_sub(index.unsigned_abs() as usize),
                    false => Some(*index as usize).filter(|at| *at < length),
                };
                match at {
                    Some(at) => Ok(items.swap_remove(at)),
                    None => Err(format!("there is no [{index}] in a list of {length}")),
                }
            }
            (Step::Key(key), other) => Err(format!(
                "`.{key}` asks for an object, found {}",
                crate::error::kind(&other)
            )),
            (Step::Index(index), other) => Err(format!(
                "[{index}] asks for a list, found {}",
                crate::error::kind(&other)
            )),
        }
    }
}

/// The first step of a path, and what follows it.
fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        return (end > 0).then(|| (Step::Key(rest[..end].to_owned()), &rest[end..]));
    }
    let (index, rest) = text.strip_prefix('[')?.split_once(']')?;
    Some((Step::Index(index.trim().parse().ok()?), rest))
}

/// The text between the quotation marks of `join(", ")`, with the escapes of JSON.
fn separator(filter: &str) -> Result<String, String> {
    let wrong = || format!("`|{filter}`: what may stand there is join(\", \") or join('\\n')");
    let inner = filter.strip_prefix("join").map(str::trim).ok_or_else(wrong)?;
    let inner = inner
        .strip_prefix('(')
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(wrong)?;
    let inner = inner.trim();
    let quoted = match inner.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        Some(text) => format!("\"{}\"", text.replace('"', "\\\"")),
        None => inner.to_owned(),
    };
    serde_json::from_str(&quoted).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str, record: Value) -> Result<Value, String> {
        let reference = Reference::parse(text)?;
        reference
            .value(record.as_object().unwrap())
            .map(Cow::into_owned)
            .map_err(|flaw| flaw.to_string())
    }

    #[test]
    fn ways_into_lists_and_objects() {
        let record =
            || json!({"triples": [["a", "b"], ["c", "d"]], "deep": {"x": [{"y": 1}]}, "refs": [], "csv": "[[1, 2]]"});
        for (text, expected) in [
            ("triples[0][1]", json!("b")),
            ("triples[-1][ 0 ]", json!("c")),
            ("deep.x[0].y", json!(1)),
            ("csv[0][1]", json!(2)),
            (" triples[1] ", json!(["c", "d"])),
        ] {
            assert_eq!(value(text, record()).unwrap(), expected, "{text}");
        }
        for (text, reason) in [
            ("triples[2]", "`triples[2]`: there is no [2] in a list of 2"),
            ("triples[-3]", "there is no [-3] in a list of 2"),
            ("triples.x", "`.x` asks for an object, found a list"),
            ("deep.z", "there is no `z`, only: x"),
            ("deep[0]", "[0] asks for a list, found an object"),
            ("tripels[0]", "no column `tripels` (did you mean `triples`?)"),
        ] {
            let error = value(text, record()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_column_of_the_very_name_comes_first() {
        let record = json!({"a.b": 1, "a": {"b": 2}, "c[0]": 3});
        assert_eq!(value("a.b", record.clone()).unwrap(), 1);
        assert_eq!(value("c[0]", record).unwrap(), 3);
        assert_eq!(value("a.b", json!({"a": {"b": 2}})).unwrap(), 2);
    }

    #[test]
    fn lists_are_joined() {
        let record = || json!({"refs": ["a", 2, null, ["b"]], "one": "x", "none": null, "csv": "[\"p\", \"q\"]"});
        for (text, expected) in [
            ("refs|join(\", \")", "a, 2, , [\"b\"]"),
            ("refs[3] | join('-')", "b"),
            ("refs|join('\\n')", "a\n2\n\n[\"b\"]"),
            ("refs|join('\"')", "a\"2\"\"[\"b\"]"),
            ("one|join(\", \")", "x"),
            ("none|join(\", \")", ""),
            ("csv|join(\" | \")", "p | q"),
        ] {
            assert_eq!(value(text, record()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_says_what_would_be() {
        for text in ["a[x]", "a[0", "a.", "a..b", "a[0]b", "a[99999999999999999999]"] {
            assert!(
                Reference::parse(text).unwrap_err().contains("write column.key"),
                "{text}"
            );
        }
        for text in ["a|upper", "a|join", "a|join(,)", "a|join(\", \"", "a|"] {
            assert!(Reference::parse(text).unwrap_err().contains("join(\", \")"), "{text}");
        }
    }
}
