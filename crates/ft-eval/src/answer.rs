//! An answer beside the right ones, and files of them.

use serde::Serialize;

use crate::{Error, Result, jsonl};

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
/// [`Error::Line`] names the first line that is none, or that has no reference; [`Error::NoPredictions`] a file without any.
pub fn read_predictions(jsonl: &[u8]) -> Result<Vec<Answer>> {
    let answers = jsonl::read(jsonl, |record| {
        Ok(Answer {
            prompt: record
                .get("prompt")
                .and_then(|prompt| prompt.as_str())
                .map(str::to_string),
            hypothesis: jsonl::get_text(record, "prediction")?.to_string(),
            references: jsonl::get_texts(record, "references")?,
        })
    })?;
    if answers.is_empty() {
        Err(Error::NoPredictions)
    } else {
        Ok(answers)
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
            (
                "{\"prediction\": \"a\", \"references\": [null]}",
                "an entry of \"references\" is null",
            ),
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
