//! Files of multiple-choice questions, put into words as lm-evaluation-harness 0.4 does without examples.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::jsonl::{self, Record, get, get_text, get_texts, kind};
use crate::{Error, Result};

/// A question with its possible answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What comes before the answer and a space.
    pub prompt: String,
    /// The possible answers.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub answer: usize,
}

/// Reads JSONL of questions, each line in one of these forms:
///
/// * `{"prompt": text, "choices": [text, ..], "answer": index}`, as it is;
/// * ARC: `{"question", "choices": {"text": [..], "label": [..]}, "answerKey"}`;
/// * HellaSwag: `{"activity_label", "ctx_a", "ctx_b", "endings": [..], "label"}`;
/// * MMLU: `{"question", "choices": [..], "answer": index or letter}`, with `"subject"` where it is known; the letters are the answers.
///
/// # Errors
/// [`Error::Line`] names the first line that is none; [`Error::NoQuestions`] a file without any.
pub fn read_questions(jsonl: &[u8]) -> Result<Vec<Question>> {
    let questions = jsonl::read(jsonl, |record| {
        let question = if record.contains_key("endings") {
            hellaswag(record)
        } else if record.contains_key("answerKey") {
            arc(record)
        } else if record.contains_key("question") {
            mmlu(record)
        } else {
            plain(record)
        }?;
        question.checked()
    })?;
    if questions.is_empty() {
        Err(Error::NoQuestions)
    } else {
        Ok(questions)
    }
}

type Parsed = std::result::Result<Question, String>;

impl Question {
    fn checked(self) -> Parsed {
        if self.prompt.trim().is_empty() {
            return Err("the prompt is empty; the likelihood of an answer needs something before it".into());
        }
        if self.choices.iter().any(String::is_empty) {
            return Err("a choice is empty".into());
        }
        match self.answer < self.choices.len() {
            true => Ok(self),
            false => Err(format!(
                "the right answer is number {} of {} choices, counted from 0",
                self.answer,
                self.choices.len()
            )),
        }
    }
}

fn plain(record: &Record) -> Parsed {
    Ok(Question {
        prompt: get_text(record, "prompt")?.to_string(),
        choices: get_texts(record, "choices")?,
        answer: index(record, "answer")?,
    })
}

fn arc(record: &Record) -> Parsed {
    let Value::Object(choices) = get(record, "choices")? else {
        return Err("\"choices\" must hold \"text\" and \"label\", as ARC has them".into());
    };
    let (key, labels) = (get_text(record, "answerKey")?, get_texts(choices, "label")?);
    let answer = labels.iter().position(|label| label == key);
    Ok(Question {
        prompt: format!("Question: {}\nAnswer:", get_text(record, "question")?),
        choices: get_texts(choices, "text")?,
        answer: answer.ok_or_else(|| format!("\"answerKey\" is {key:?}, and the labels are {}", labels.join(", ")))?,
    })
}

fn hellaswag(record: &Record) -> Parsed {
    let text = |key| get_text(record, key);
    let context = format!(
        "{}: {} {}",
        text("activity_label")?,
        text("ctx_a")?,
        capitalized(text("ctx_b")?)
    );
    Ok(Question {
        prompt: cleaned(&context),
        choices: get_texts(record, "endings")?
            .iter()
            .map(|ending| cleaned(ending))
            .collect(),
        answer: index(record, "label")?,
    })
}

/// Marks that WikiHow left in the text go.
fn cleaned(text: &str) -> String {
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a constant"));
    let text = text.trim().replace(" [title]", ". ");
    BRACKETS.replace_all(&text, "").replace("  ", " ")
}

/// Python's `capitalize`: one letter large, all others small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &letters.as_str().to_lowercase()
}

fn mmlu(record: &Record) -> Parsed {
    let choices = get_texts(record, "choices")?;
    let letters: Vec<String> = ('A'..='Z').take(choices.len()).map(String::from).collect();
    let answer = match get(record, "answer")? {
        Value::String(letter) if letters.contains(letter) => {
            letters.iter().position(|other| other == letter).unwrap_or(0)
        }
        _ => index(record, "answer")?,
    };
    let listed: Vec<String> = letters
        .iter()
        .zip(&choices)
        .map(|(letter, choice)| format!("{letter}. {choice}\n"))
        .collect();
    let subject = record.get("subject").and_then(Value::as_str);
    let about = |subject: &str| {
        format!(
            "The following are multiple choice questions (with answers) about {}.\n\n",
            subject.replace('_', " ")
        )
    };
    let description = subject.map(about).unwrap_or_default();
    let question = get_text(record, "question")?.trim();
    Ok(Question {
        prompt: format!("{description}{question}\n{}Answer:", listed.concat()),
        choices: letters,
        answer,
    })
}

/// A number from 0, or the text of one.
fn index(record: &Record, key: &str) -> std::result::Result<usize, String> {
    let value = get(record, key)?;
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| match value {
        Value::Number(other) => format!("\"{key}\" is {other}, a number from 0 is expected"),
        Value::String(other) => format!("\"{key}\" is {other:?}, a number from 0 is expected"),
        other => format!("\"{key}\" is {}, a number from 0 is expected", kind(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The templates are those of the harness's tasks arc_easy, hellaswag and mmlu.
    #[test]
    fn four_forms() {
        let lines = r#"
            {"prompt": "The sky is", "choices": ["blue", "wet"], "answer": 0}
            {"question": "What is wet?", "choices": {"text": ["fire", "water"], "label": ["1", "2"]}, "answerKey": "2"}
            {"activity_label": "Baking", "ctx_a": "A man  bakes.", "ctx_b": "then He", "endings": ["eats [x] it.", " sits [title] Rest [step] now"], "label": "1"}
            {"question": " 1+1? ", "choices": ["1", "2", "3"], "answer": 1, "subject": "high_school_maths"}
            {"question": "1+2?", "choices": ["1", "2", "3"], "answer": "C"}
        "#;
        let found = read_questions(lines.as_bytes()).unwrap();
        let expected = [
            ("The sky is", vec!["blue", "wet"], 0),
            ("Question: What is wet?\nAnswer:", vec!["fire", "water"], 1),
            ("Baking: A man bakes. Then he", vec!["eats it.", "sits. Rest now"], 1),
            (
                "The following are multiple choice questions (with answers) about high school maths.\n\n1+1?\nA. 1\nB. 2\nC. 3\nAnswer:",
                vec!["A", "B", "C"],
                1,
            ),
            ("1+2?\nA. 1\nB. 2\nC. 3\nAnswer:", vec!["A", "B", "C"], 2),
        ];
        assert_eq!(found.len(), expected.len());
        for (found, (prompt, choices, answer)) in found.iter().zip(expected) {
            assert_eq!((found.prompt.as_str(), found.answer), (prompt, answer));
            assert_eq!(found.choices, choices);
        }
    }

    #[test]
    fn errors_name_the_line() {
        for (bad, says) in [
            (
                r#"{"prompt": "x", "choices": ["a"], "answer": 1}"#,
                "number 1 of 1 choices",
            ),
            (
                r#"{"prompt": "x", "choices": ["a", ""], "answer": 0}"#,
                "a choice is empty",
            ),
            (
                r#"{"prompt": " ", "choices": ["a"], "answer": 0}"#,
                "the prompt is empty",
            ),
            (r#"{"prompt": "x", "choices": [], "answer": 0}"#, "\"choices\" is empty"),
            (r#"{"prompt": "x", "choices": ["a"], "answer": -1}"#, "\"answer\" is -1"),
            (
                r#"{"question": "x", "choices": ["a"], "answer": "B"}"#,
                "\"answer\" is \"B\"",
            ),
            (
                r#"{"question": "x", "choices": ["a"], "answerKey": "B"}"#,
                "as ARC has them",
            ),
            (
                r#"{"question": "x", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}"#,
                "the labels are A",
            ),
            (r#"{"text": "x"}"#, "no \"prompt\""),
        ] {
            let error = read_questions(format!("\n{bad}\n").as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(says), "{error}");
        }
        assert!(matches!(read_questions(b""), Err(Error::NoQuestions)));
    }
}
