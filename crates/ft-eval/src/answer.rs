//! An answer beside the right ones, and files of them.

use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result};

/// An answer and the answers that would have been right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What was asked, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What the model wrote.
    #[serde(rename = "prediction")]
    pub hypothesis: String,
    /// What would have been right; at least one.
    pub references: Vec<String>,
}

/// Reads predictions: JSONL of `{"prediction": text, "references": [text, ..]}`, with `"prompt": text` where it is known. Other keys
/// are left alone, empty lines skipped.
///
/// # Errors
/// [`Error::Prediction`] names the first line that is none, or that has no reference; [`Error::NoPredictions`] a file without any.
pub fn read_predictions(jsonl: &[u8]) -> Result<Vec<Answer>> {
    let jsonl = jsonl.strip_prefix(b"\xef\xbb\xbf").unwrap_or(jsonl);
    let lines = (1..).zip(jsonl.split(|byte| *byte == b'\n'));
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parse = |(number, line)| prediction(line).map_err(|what| Error::Prediction { line: number, what });
    let answers: Vec<Answer> = filled.map(parse).collect::<Result<_>>()?;
    if answers.is_empty() {
        Err(Error::NoPredictions)
    } else {
        Ok(answers)
    }
}

fn prediction(line: &[u8]) -> std::result::Result<Answer, String> {
    let record: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(record) = record else {
        return Err(format!("{} where an object is expected", kind(&record)));
    };
    let get = |key: &str| record.get(key).ok_or_else(|| format!("no \"{key}\" in it"));
    let references: Vec<String> = match get("references")? {
        Value::String(one) => vec![one.clone()],
        Value::Array(all) => all
            .iter()
            .map(|value| text("a reference", value))
            .collect::<std::result::Result<_, _>>()?,
        other => {
            return Err(format!(
                "\"references\" is {}, a list of texts is expected",
                kind(other)
            ));
        }
    };
    if references.is_empty() {
        return Err("\"references\" is empty; at least one right answer is needed".into());
    }
    Ok(Answer {
        prompt: record.get("prompt").and_then(Value::as_str).map(str::to_string),
        hypothesis: text("\"prediction\"", get("prediction")?)?,
        references,
    })
}

fn text(what: &str, value: &Value) -> std::result::Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{what} is {}, a text is expected", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let answers = vec![
            Answer {
                prompt: Some("who\n?".into()),
                hypothesis: "\u{2028}\"".into(),
                references: vec!["a".into(), String::new()],
            },
            Answer {
                prompt: None,
                hypothesis: String::new(),
                references: vec!["b".into()],
            },
        ];
        let lines: Vec<String> = answers
            .iter()
            .map(|answer| serde_json::to_string(answer).unwrap())
            .collect();
        let file = format!("\u{feff}{}\r\n\n", lines.join("\r\n\n"));
        assert_eq!(read_predictions(file.as_bytes()).unwrap(), answers);
        let more = br#"{"id": 7, "prediction": "x", "references": "one"}"#;
        assert_eq!(read_predictions(more).unwrap()[0].references, ["one"]);
    }

    #[test]
    fn errors_name_the_line() {
        let good = "{\"prediction\": \"a\", \"references\": [\"b\"]}\n\n";
        for (bad, says) in [
            ("{\"prediction\": \"a\"", "not JSON"),
            ("[1]", "a list where an object"),
            ("{\"references\": [\"b\"]}", "no \"prediction\""),
            ("{\"prediction\": \"a\"}", "no \"references\""),
            ("{\"prediction\": \"a\", \"references\": []}", "is empty"),
            (
                "{\"prediction\": 4, \"references\": [\"b\"]}",
                "\"prediction\" is a number",
            ),
            ("{\"prediction\": \"a\", \"references\": [null]}", "a reference is null"),
            (
                "{\"prediction\": \"a\", \"references\": {}}",
                "\"references\" is an object",
            ),
        ] {
            let error = read_predictions(format!("{good}{bad}").as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("line 3: ") && error.contains(says), "{error}");
        }
        assert!(
            read_predictions(b"\n{\"prediction\": \"\xff\"}")
                .unwrap_err()
                .to_string()
                .starts_with("line 2: ")
        );
        assert!(matches!(read_predictions(b" \n"), Err(Error::NoPredictions)));
    }
}
