//! What a head learns to say of a text, out of a column of a record.

use serde::Serialize;
use serde_json::Value;

use crate::error::{Flaw, did_you_mean, kind};

/// Which labels there are, and what a record says with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// The names of the classes or values, in the order of the head's outputs.
    pub names: Vec<String>,
    /// What a record says.
    pub kind: LabelKind,
}

/// What a record says of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LabelKind {
    /// One class.
    Class,
    /// Any number of classes.
    Classes,
    /// A number for each output.
    Values,
    /// A class of every word.
    Words,
}

/// The class of what is not learned, in lists of classes of words and tokens.
pub const NO_CLASS: f32 = -100.0;

impl Labels {
    /// Numbers for the head out of `column`: the number of the class; a 0 or 1 for every class; values; the number of the class of every
    /// word, -100 where none is learned.
    pub(crate) fn read(&self, column: &str, value: &Value) -> Result<Vec<f32>, Flaw> {
        match self.kind {
            LabelKind::Class => Ok(vec![self.class(column, value)?]),
            LabelKind::Classes => self.classes(column, value),
            LabelKind::Values => self.values(column, value),
            LabelKind::Words => {
                let class = |item: &Value| match item.as_f64() == Some(f64::from(NO_CLASS)) {
                    true => Ok(NO_CLASS),
                    false => self.class(column, item),
                };
                super::formats::list_of(column, value)?.iter().map(class).collect()
            }
        }
    }

    /// A class by its name or its number; texts that are no name may be numbers (in CSV files).
    fn class(&self, column: &str, value: &Value) -> Result<f32, Flaw> {
        let number = |n: f64| (n.fract() == 0.0 && n >= 0.0 && n < self.names.len() as f64).then_some(n as f32);
        let found = match value {
            Value::Number(n) => n.as_f64().and_then(number),
            Value::Bool(flag) => number(f64::from(u8::from(*flag))),
            Value::String(text) => {
                let named = self.names.iter().position(|name| name == text);
                named
                    .map(|at| at as f32)
                    .or_else(|| text.trim().parse().ok().and_then(number))
            }
            other => return Err(wrong(column, "a label", other)),
        };
        found.ok_or_else(|| self.unknown(column, value))
    }

    /// A list of names, or a 0 or 1 for every class.
    fn classes(&self, column: &str, value: &Value) -> Result<Vec<f32>, Flaw> {
        let items = super::formats::list_of(column, value)?;
        if items.iter().all(Value::is_string) {
            let mut flags = vec![0.0; self.names.len()];
            for item in items.iter() {
                flags[self.class(column, item)? as usize] = 1.0;
            }
            return Ok(flags);
        }
        let flag = |item: &Value| {
            let on =
                super::formats::boolean(item).ok_or_else(|| wrong(column, "a list of names, or of 0 and 1", item))?;
            Ok(f32::from(u8::from(on)))
        };
        self.as_many(column, items.iter().map(flag).collect::<Result<_, Flaw>>()?)
    }

    /// A number, or as many as there are outputs.
    fn values(&self, column: &str, value: &Value) -> Result<Vec<f32>, Flaw> {
        let number = |item: &Value| {
            let number = match item {
                Value::String(text) => text.trim().parse().ok(),
                other => other.as_f64(),
            };
            let finite = number.map(|n: f64| n as f32).filter(|n| n.is_finite());
            finite.ok_or_else(|| wrong(column, "a number", item))
        };
        if self.names.len() == 1 && !value.is_array() {
            return Ok(vec![number(value)?]);
        }
        let items = super::formats::list_of(column, value)?;
        self.as_many(column, items.iter().map(number).collect::<Result<_, Flaw>>()?)
    }

    fn as_many(&self, column: &str, values: Vec<f32>) -> Result<Vec<f32>, Flaw> {
        match values.len() == self.names.len() {
            true => Ok(values),
            false => Err(Flaw::Label(format!(
                "`{column}` has {} entries, and the head has {} outputs ({}); give one for each, or name other objective.labels",
                values.len(),
                self.names.len(),
                self.names.join(", ")
            ))),
        }
    }

    fn unknown(&self, column: &str, value: &Value) -> Flaw {
        let near = value.as_str().map(|text| did_you_mean(text, &self.names));
        Flaw::Label(format!(
            "`{column}` is {value}, which is no label{}; there are {} (numbers 0 to {}): add it to objective.labels, or take the record out",
            near.unwrap_or_default(),
            self.names.join(", "),
            self.names.len().saturating_sub(1)
        ))
    }
}

fn wrong(column: &str, expected: &'static str, found: &Value) -> Flaw {
    Flaw::Kind {
        column: column.into(),
        expected,
        found: kind(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(kind: LabelKind, names: &[&str]) -> Labels {
        Labels {
            names: names.iter().map(|name| name.to_string()).collect(),
            kind,
        }
    }

    #[test]
    fn a_class_is_a_name_or_a_number() {
        let labels = labels(LabelKind::Class, &["negative", "positive"]);
        for (value, class) in [
            (json!("positive"), 1.0),
            (json!(0), 0.0),
            (json!("1"), 1.0),
            (json!(true), 1.0),
            (json!(1.0), 1.0),
        ] {
            assert_eq!(labels.read("label", &value).unwrap(), [class], "{value}");
        }
        for (value, says) in [
            (json!("positiv"), "did you mean `positive`?"),
            (
                json!(2),
                "`label` is 2, which is no label; there are negative, positive (numbers 0 to 1)",
            ),
            (json!(-1), "no label"),
            (json!([1]), "`label` should be a label, found a list"),
        ] {
            let flaw = labels.read("label", &value).unwrap_err().to_string();
            assert!(flaw.contains(says), "{flaw}");
        }
    }

    #[test]
    fn several_classes_values_and_classes_of_words() {
        let classes = labels(LabelKind::Classes, &["a", "b", "c"]);
        assert_eq!(classes.read("labels", &json!(["c", "a"])).unwrap(), [1.0, 0.0, 1.0]);
        assert_eq!(classes.read("labels", &json!([])).unwrap(), [0.0; 3]);
        assert_eq!(classes.read("labels", &json!("[0, 1, 1]")).unwrap(), [0.0, 1.0, 1.0]);
        let flaw = classes.read("labels", &json!([0, 1])).unwrap_err().to_string();
        assert!(flaw.contains("2 entries, and the head has 3 outputs"), "{flaw}");
        let value = labels(LabelKind::Values, &["score"]);
        assert_eq!(value.read("label", &json!("2.5")).unwrap(), [2.5]);
        assert!(value.read("label", &json!("good")).is_err());
        let words = labels(LabelKind::Words, &["O", "B-PER"]);
        assert_eq!(words.read("tags", &json!(["O", 1, -100])).unwrap(), [0.0, 1.0, -100.0]);
    }
}
