//! JSONL files whose lines are checked one by one.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// One record.
pub(crate) type Record = Map<String, Value>;

/// What `parse` makes of every line; empty ones are skipped.
///
/// # Errors
/// [`Error::Line`] names the first line that is no JSON object, or that `parse` finds wrong.
pub(crate) fn read<T>(jsonl: &[u8], parse: impl Fn(&Record) -> std::result::Result<T, String>) -> Result<Vec<T>> {
    let jsonl = jsonl.strip_prefix(b"\xef\xbb\xbf").unwrap_or(jsonl);
    let lines = (1..).zip(jsonl.split(|byte| *byte == b'\n'));
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let read = |(number, line)| {
        let parsed = record(line).and_then(|record| parse(&record));
        parsed.map_err(|what| Error::Line { line: number, what })
    };
    filled.map(read).collect()
}

fn record(line: &[u8]) -> std::result::Result<Record, String> {
    match serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))? {
        Value::Object(record) => Ok(record),
        other => Err(format!("{} where an object is expected", kind(&other))),
    }
}

/// A field that must be there.
pub(crate) fn get<'a>(record: &'a Record, key: &str) -> std::result::Result<&'a Value, String> {
    record.get(key).ok_or_else(|| format!("no \"{key}\" in it"))
}

/// A text; `what` names it in the error.
pub(crate) fn text<'a>(what: &str, value: &'a Value) -> std::result::Result<&'a str, String> {
    let text = value.as_str();
    text.ok_or_else(|| format!("{what} is {}, a text is expected", kind(value)))
}

/// A field that must be a text.
pub(crate) fn get_text<'a>(record: &'a Record, key: &str) -> std::result::Result<&'a str, String> {
    text(&format!("\"{key}\""), get(record, key)?)
}

/// A field that must be a list of texts, with at least one.
pub(crate) fn get_texts(record: &Record, key: &str) -> std::result::Result<Vec<String>, String> {
    let texts: Vec<String> = match get(record, key)? {
        Value::String(one) => vec![one.clone()],
        Value::Array(all) => {
            let item = |value| text(&format!("an entry of \"{key}\""), value).map(str::to_string);
            all.iter().map(item).collect::<std::result::Result<_, _>>()?
        }
        other => return Err(format!("\"{key}\" is {}, a list of texts is expected", kind(other))),
    };
    match texts.is_empty() {
        true => Err(format!("\"{key}\" is empty; at least one text is needed")),
        false => Ok(texts),
    }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
