//! What records mean: each format is one file here and one line in [`FORMATS`].
//!
//! A format turns the fields of a record into samples: tokens and which of them are learned, by construction. The preferred answer of
//! a pair is a sample that knows the other one. Packing works on finished samples and needs no format to know of it.

mod chat;
mod classification;
mod instruct;
mod judged;
mod pre_tokenized;
mod preference;
mod prompt_completion;
mod segments;
mod text;
mod text_pairs;
mod token_classification;
mod unpaired_preference;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Flaw, Result, did_you_mean, kind};
use crate::labels::Labels;
use crate::map::{Fields, no_column};
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

pub(crate) use chat::is_question;
pub(crate) use judged::{LABELS, disliked, made, near_miss};

/// Every format, in the order in which they are tried when none is named.
static FORMATS: &[&dyn Format] = &[
    &pre_tokenized::PreTokenized,
    &preference::Preference,
    &unpaired_preference::UnpairedPreference,
    &chat::Chat,
    &instruct::Instruct,
    &prompt_completion::PromptCompletion,
    &segments::Segments,
    &classification::Classification,
    &token_classification::TokenClassification,
    &text_pairs::TextPairs,
    &text::Text,
];

/// What the samples of a format are examples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examples {
    /// Texts, or answers to prompts.
    Samples,
    /// Pairs of a chosen and a rejected answer.
    Pairs,
    /// Answers that are rated good or bad.
    Rated,
    /// Texts that a head says something of.
    Labelled,
    /// Pairs of texts that mean the same.
    Similar,
}

/// A way to read records.
pub(crate) trait Format: Sync {
    /// The name in configurations.
    fn name(&self) -> &'static str;

    /// The sets of fields that make a record, any one of which suffices.
    fn shapes(&self) -> &'static [&'static [&'static str]];

    /// Fields that may be there as well.
    fn optional(&self) -> &'static [&'static str] {
        &[]
    }

    /// What its samples are examples of.
    fn examples(&self) -> Examples {
        Examples::Samples
    }

    /// The fields that are not learned: what comes before an answer. In lists of messages that is what the user says.
    fn before_answers(&self) -> &'static [&'static str] {
        &[]
    }

    /// What must hold before any record is read.
    fn check(&self, _tokenizer: &Tokenizer) -> Result<()> {
        Ok(())
    }

    /// Of `fields`, those that the format knows.
    fn own(&self, fields: &Fields) -> Fields {
        let knows = |name: &str| {
            let shapes = self.shapes().iter().copied().flatten();
            shapes.chain(self.optional()).any(|known| *known == name)
        };
        let own = fields.iter().filter(|(name, _)| knows(name));
        own.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The samples of one record, usually one.
    fn samples(&self, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Sample>, Flaw>;

    /// A sample of the record in at most `max_length` tokens: the first ones.
    fn cut(&self, _: &Record, _: &Tokenizer, sample: &Sample, max_length: usize) -> Result<Sample, Flaw> {
        let mut sample = sample.clone();
        sample.truncate(max_length);
        Ok(sample)
    }
}

/// The name of a data format, as written in a configuration: `text`, `prompt-completion`, `instruct`, `chat`, `preference`,
/// `unpaired-preference`, `segments`, `pre-tokenized`, `classification`,
/// `token-classification`, `text-pairs`.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FormatName(&'static dyn Format);

impl FormatName {
    /// The name.
    pub fn as_str(&self) -> &'static str {
        self.0.name()
    }

    /// Every format there is.
    pub fn all() -> impl Iterator<Item = FormatName> {
        FORMATS.iter().map(|&format| FormatName(format))
    }

    /// The fields that `data.map` can fill.
    pub fn fields(&self) -> Vec<&'static str> {
        let mut fields = vec![];
        for &field in self.0.shapes().iter().copied().flatten().chain(self.0.optional()) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        fields
    }

    /// What its samples are examples of.
    pub fn examples(&self) -> Examples {
        self.0.examples()
    }

    pub(crate) fn format(&self) -> &'static dyn Format {
        self.0
    }

    /// The first format that records with these fields fit; where a head learns, the first that has labels for it.
    pub(crate) fn detect(names: &[&str], labelled: bool) -> Option<FormatName> {
        let fits = |f: &FormatName| {
            let mut shapes = f.0.shapes().iter();
            shapes.any(|shape| shape.iter().all(|field| names.contains(field)))
        };
        FormatName::all().find(|f| fits(f) && (f.examples() == Examples::Labelled) == labelled)
    }
}

impl FromStr for FormatName {
    type Err = Error;

    fn from_str(name: &str) -> Result<FormatName> {
        FormatName::all().find(|format| format.as_str() == name).ok_or_else(|| {
            let names: Vec<&str> = FormatName::all().map(|f| f.as_str()).collect();
            let what = format!(
                "no format `{name}`{}; the formats are: {}",
                did_you_mean(name, &names),
                names.join(", ")
            );
            Error::Config {
                key: "format".into(),
                what,
            }
        })
    }
}

impl TryFrom<String> for FormatName {
    type Error = Error;

    fn try_from(name: String) -> Result<FormatName> {
        name.parse()
    }
}

impl From<FormatName> for String {
    fn from(name: FormatName) -> String {
        name.as_str().into()
    }
}

impl PartialEq for FormatName {
    fn eq(&self, other: &FormatName) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for FormatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JsonSchema for FormatName {
    fn schema_name() -> Cow<'static, str> {
        "FormatName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = FormatName::all().map(|f| f.as_str()).collect();
        json_schema!({"type": "string", "enum": names})
    }
}

/// The fields of one record, and the labels that a head learns.
pub(crate) struct Record<'a>(pub Fields, pub Option<&'a Labels>);

impl Record<'_> {
    /// The labels, which an objective names.
    pub fn labels(&self) -> Result<&Labels, Flaw> {
        self.1.ok_or_else(|| {
            let why = "labels are learned by a head: set objective.kind = \"classify\" and objective.labels";
            Flaw::Label(why.into())
        })
    }

    /// A field that may be missing or null.
    pub fn optional(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub fn value(&self, name: &str) -> Result<&Value, Flaw> {
        self.0.get(name).ok_or_else(|| no_column(name, &self.0))
    }

    /// A field that must be text; null counts as empty, numbers and booleans as what they look like.
    pub fn text(&self, name: &str) -> Result<Cow<'_, str>, Flaw> {
        text_of(name, self.value(name)?)
    }

    /// A text field that may be missing.
    pub fn optional_text(&self, name: &str) -> Result<Cow<'_, str>, Flaw> {
        self.optional(name).map_or(Ok("".into()), |value| text_of(name, value))
    }

    /// A list, as such or as the JSON text of one (in CSV files).
    pub fn list(&self, name: &str) -> Result<Cow<'_, [Value]>, Flaw> {
        list_of(name, self.value(name)?)
    }
}

fn text_of<'a>(column: &str, value: &'a Value) -> Result<Cow<'a, str>, Flaw> {
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Null => Ok("".into()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string().into()),
        other => Err(wrong_kind(column, "text", other)),
    }
}

pub(crate) fn list_of<'a>(column: &str, value: &'a Value) -> Result<Cow<'a, [Value]>, Flaw> {
    match value {
        Value::Array(items) => Ok(Cow::Borrowed(items)),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Array(items)) => Ok(Cow::Owned(items)),
            _ => Err(wrong_kind(column, "a list", value)),
        },
        other => Err(wrong_kind(column, "a list", other)),
    }
}

/// A flag: a boolean, 1 or 0, or the text of either (in CSV files).
pub(crate) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) if number.as_f64() == Some(1.0) => Some(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Some(false),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn wrong_kind(column: &str, expected: &'static str, found: &Value) -> Flaw {
    Flaw::Kind {
        column: column.into(),
        expected,
        found: kind(found),
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Flaw> {
    tokenizer
        .encode(text, false)
        .map_err(|e| Flaw::Tokenizer(e.to_string()))
}

/// Ends `ids` with EOS, unless they do already or the tokenizer has none.
fn close(tokenizer: &Tokenizer, ids: &mut Vec<u32>) {
    if let Some(eos) = tokenizer.eos_id().filter(|eos| ids.last() != Some(eos)) {
        ids.push(eos);
    }
}

/// Formats that teach a model to stop need a token to stop with.
fn require_eos(tokenizer: &Tokenizer) -> Result<()> {
    match tokenizer.eos_id() {
        Some(_) => Ok(()),
        None => Err(Error::Tokenizer(
            "no end-of-text token, so a model could not learn to stop; name one as `eos_token` in tokenizer_config.json".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
