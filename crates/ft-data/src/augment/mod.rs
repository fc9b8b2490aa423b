//! Data augmentation: further training records made from those that are there, by small changes to what comes before the answer.
//!
//! ```text
//! record ─ map ─> fields of the format ─> copy 1, 2, ..: one operator, or all in turn, on the texts that may change ─> samples
//! ```
//!
//! Operators that ask a model are beside that ([`asked`]): what a model says is no function of the seed, so that a file is made first.
//!
//! Rates have the names and the meaning of EDA (Wei and Zou 2019, arXiv:1901.11196) and of nlpaug; unlike theirs, the operators keep case,
//! punctuation, numbers, names, negations, code and markup ([`words`]). A copy depends on the seed, the record's place and the
//! copy's number alone.

mod asked;
mod config;
mod lexicon;
mod operators;
mod safe;
mod words;

use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Place, Result};
use crate::formats::{Format, is_question};
use crate::map::Fields;
use ft_seed::{below, stream, sub_seed};

pub use asked::{AskedModel, Author, Question, Reply, Rewritten, rewrite};
pub use config::{Apply, AugmentConfig, Protected};
pub use operators::OperatorConfig;

use operators::Operator;

/// A record that was made, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The fields of the format.
    pub fields: Fields,
    /// Where it comes from.
    pub source: Origin,
}

impl Made {
    /// The record with its origin as `source`.
    pub fn record(&self) -> Value {
        let mut record = self.fields.clone();
        record.insert("source".into(), json!(self.source));
        Value::Object(record)
    }
}

/// What a made record comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Origin {
    /// The file.
    pub file: String,
    /// The record in it.
    pub place: String,
    /// Which of its copies, from 1.
    pub copy: usize,
    /// The operators that changed it.
    pub operators: Vec<&'static str>,
    /// The models that were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// The section `[data.augment]`, ready to be applied.
#[derive(Debug)]
pub(crate) struct Augmenter {
    config: AugmentConfig,
    operators: Vec<(&'static str, Box<dyn Operator>)>,
    seed: u64,
}

impl Augmenter {
    /// # Errors
    /// Options that make no sense, and lexicons that cannot be read.
    pub fn new(config: &AugmentConfig, seed: u64) -> Result<Self> {
        config.check()?;
        let build = |operator: &OperatorConfig| Ok((operator.name(), operator.build()?));
        Ok(Self {
            operators: config.operators.iter().map(build).collect::<Result<_>>()?,
            config: config.clone(),
            seed: sub_seed(seed, "augment"),
        })
    }

    /// The fields that change in records of a format.
    ///
    /// # Errors
    /// A format all of whose text is learned, where no field is named.
    pub fn fields(&self, format: &dyn Format) -> Result<Vec<String>> {
        Self::fields_of(&self.config, format)
    }

    fn fields_of(config: &AugmentConfig, format: &dyn Format) -> Result<Vec<String>> {
        if !config.fields.is_empty() {
            return Ok(config.fields.clone());
        }
        let own: Vec<String> = format.before_answers().iter().map(|name| (*name).to_owned()).collect();
        match own.is_empty() {
            false => Ok(own),
            true => Err(Error::Config {
                key: "augment.fields".into(),
                what: format!(
                    "format \"{}\" has no field that is not learned; name one to change what is learned",
                    format.name()
                ),
            }),
        }
    }

    /// The copies of a record; those that nothing could be changed in are left out.
    pub fn copies(&self, files: &[String], place: Place, record: &Fields, fields: &[String]) -> Vec<Made> {
        let copy = |copy: usize| {
            let mut rng = stream(self.seed, &format!("{}/{}/{copy}", place.file, place.at));
            let chosen: Vec<_> = match self.config.apply {
                Apply::One => vec![&self.operators[below(&mut rng, self.operators.len())]],
                Apply::All => self.operators.iter().collect(),
            };
            let (mut made, mut used) = (record.clone(), Vec::new());
            for (name, operator) in chosen {
                let mut changed = false;
                for field in fields {
                    if let Some(value) = made.get_mut(field) {
                        changed |= self.change(value, operator.as_ref(), &mut rng);
                    }
                }
                if changed {
                    used.push(*name);
                }
            }
            let source = Origin {
                file: files.get(place.file as usize).cloned().unwrap_or_default(),
                place: place.at.to_string(),
                copy,
                operators: used,
                models: Vec::new(),
            };
            (made != *record).then_some(Made { fields: made, source })
        };
        (1..=self.config.copies).filter_map(copy).collect()
    }

    /// Changes a text, or in a list of messages what the user says; whether anything changed.
    fn change(&self, value: &mut Value, operator: &dyn Operator, rng: &mut ChaCha8Rng) -> bool {
        let mut changed = false;
        each_text(value, &mut |text| {
            let new = operator.apply(text, &self.config.change, rng);
            changed |= new != *text;
            *text = new;
        });
        changed
    }
}

/// A text, or in a list of messages what the user says.
fn each_text(value: &mut Value, each: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(messages) => {
            for message in messages.iter_mut().filter(|message| is_question(message)) {
                let key = ["content", "value"].into_iter().find(|key| message.get(key).is_some());
                if let Some(Value::String(text)) = key.and_then(|key| message.get_mut(key)) {
                    each(text);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
