//! Records written anew by models. What a model says is no function of the seed on every machine, so that this is not done while a run
//! trains: the records go into a file, and a run is given the file.
//!
//! ```text
//! record ─ copy 1, 2, .. ─ one operator each ─> texts ─ a model, or two in turn ─> answers ─ safe? ─> records with their source
//! ```

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operators::OperatorConfig;
use super::safe::{self, Loss};
use super::{Augmenter, Made, Origin, each_text};
use crate::error::{Error, Place, Result};
use crate::formats::FormatName;
use crate::map::Fields;
use ft_seed::{below, stream, sub_seed};

/// Where the text goes in a prompt.
pub(super) const TEXT: &str = "{text}";

/// A model that is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskedModel {
    /// What `ft generate` takes as MODEL, or the address of an API as OpenAI's: "http://127.0.0.1:8000/v1".
    pub model: String,
    /// The model's name there; needed with an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Variable of the environment with the key for that address, where it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Divides the logits; 0 always takes the likeliest token.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Most tokens of an answer; longer ones are left out.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// Seconds in which an address must have answered.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
}

fn temperature() -> f64 {
    0.7
}

fn max_new_tokens() -> usize {
    256
}

fn timeout_s() -> u64 {
    120
}

impl AskedModel {
    /// The address, where it is one.
    pub fn address(&self) -> Option<&str> {
        let schemes = ["http://", "https://"];
        let is = schemes.iter().any(|scheme| self.model.starts_with(scheme));
        is.then_some(self.model.as_str())
    }

    pub(super) fn wrong(&self, key: &str) -> Option<String> {
        if self.address().is_some() && self.name.is_none() {
            return Some(format!("`{key}.name` is missing: what {} calls the model", self.model));
        }
        if self.address().is_none() && (self.name.is_some() || self.api_key_env.is_some()) {
            return Some(format!(
                "`{key}.name` and `{key}.api_key_env` belong to an address, and `{key}.model` = \"{}\" is none",
                self.model
            ));
        }
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return Some(format!("`{key}.temperature` must be a number of at least 0"));
        }
        if self.timeout_s == 0 {
            return Some(format!("`{key}.timeout_s` must be at least 1"));
        }
        (self.max_new_tokens == 0).then(|| format!("`{key}.max_new_tokens` must be at least 1"))
    }
}

/// What is wrong with a prompt.
pub(super) fn needs_text(key: &str, prompt: &str) -> Option<String> {
    (prompt.matches(TEXT).count() != 1).then(|| format!("`{key}` should hold {TEXT} once"))
}

/// A model and what it is asked for each text.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    /// The model.
    pub by: AskedModel,
    /// With `{text}` in it.
    pub prompt: String,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The whole prompt.
    pub prompt: String,
    /// What its random draws come from.
    pub seed: u64,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The model's whole answer.
    Text(String),
    /// An answer that did not end within `max_new_tokens`.
    Cut,
    /// None, after every try.
    Failed,
}

/// Who puts questions to models.
pub trait Author {
    /// What goes wrong so that nothing more can be asked.
    type Error;

    /// A reply for each question, in their order.
    ///
    /// # Errors
    /// A model that cannot be had at all. Single questions that came to nothing are [`Reply::Failed`].
    fn ask(&mut self, by: &AskedModel, questions: &[Question]) -> Result<Vec<Reply>, Self::Error>;
}

/// What models made of records.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewritten {
    /// The records, in the order of those they are made from.
    pub rows: Vec<Made>,
    /// Texts that were asked for.
    pub asked: usize,
    /// Texts that were left as they are, by why.
    pub dropped: BTreeMap<&'static str, usize>,
}

/// A text that is to be written anew.
struct Text {
    /// Which copy it is in, and which of its texts it is.
    copy: usize,
    number: usize,
    source: String,
    /// What has become of it so far.
    now: String,
}

/// A copy of a record.
struct Copy<'r> {
    place: Place,
    record: &'r Fields,
    copy: usize,
    operator: usize,
}

impl super::AugmentConfig {
    /// Whether its operators ask models.
    pub fn asks(&self) -> bool {
        self.operators.iter().any(|operator| !operator.asks().is_empty())
    }
}

/// Has records written anew by the models of `config`; `files` are those that places count.
///
/// # Errors
/// Options that do not fit; and the author's, beside which stands what was made until then.
pub fn rewrite<A: Author>(
    config: &super::AugmentConfig,
    format: FormatName,
    files: &[String],
    records: &[(Place, &Fields)],
    seed: u64,
    author: &mut A,
) -> Result<(Rewritten, Option<A::Error>)> {
    config.check()?;
    let fields = Augmenter::fields_of(config, format.format())?;
    let seed = sub_seed(seed, "augment");
    let mut copies = Vec::new();
    for (place, record) in records {
        for copy in 1..=config.copies {
            let mut rng = stream(seed, &format!("{}/{}/{copy}", place.file, place.at));
            copies.push(Copy {
                place: *place,
                record,
                copy,
                operator: below(&mut rng, config.operators.len()),
            });
        }
    }
    let mut made = Rewritten::default();
    let mut failure = None;
    // Copies in groups, so that what was made stays where a later question finds nobody.
    for group in copies.chunks(GROUP) {
        match answered(config, &fields, group, seed, author, &mut made) {
            Ok(rows) => made.rows.extend(rows.into_iter().map(|row| row.named(files))),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    Ok((made, failure))
}

/// Copies that are asked for together.
const GROUP: usize = 256;

/// A record that was made, its file still a number.
struct Row {
    made: Made,
    file: usize,
}

impl Row {
    fn named(mut self, files: &[String]) -> Made {
        self.made.source.file = files.get(self.file).cloned().unwrap_or_default();
        self.made
    }
}

fn answered<A: Author>(
    config: &super::AugmentConfig,
    fields: &[String],
    copies: &[Copy],
    seed: u64,
    author: &mut A,
    told: &mut Rewritten,
) -> Result<Vec<Row>, A::Error> {
    let mut anew: Vec<BTreeMap<usize, String>> = copies.iter().map(|_| BTreeMap::new()).collect();
    for (number, operator) in config.operators.iter().enumerate() {
        let own = copies.iter().enumerate().filter(|(_, copy)| copy.operator == number);
        let texts: Vec<Text> = own.flat_map(|(at, copy)| texts(copy, at, fields)).collect();
        told.asked += texts.len();
        for text in written(operator, copies, texts, seed, author, &mut told.dropped)? {
            match safe::lost(&text.source, &text.now, &config.change) {
                Some(loss) => *told.dropped.entry(loss.name()).or_default() += 1,
                None => drop(anew[text.copy].insert(text.number, text.now)),
            }
        }
    }
    let rows = copies.iter().zip(anew).filter(|(_, new)| !new.is_empty());
    Ok(rows.map(|(copy, new)| row(config, fields, copy, new)).collect())
}

/// The texts of a copy that may change.
fn texts(copy: &Copy, at: usize, fields: &[String]) -> Vec<Text> {
    let mut found = Vec::new();
    visit(&mut copy.record.clone(), fields, &mut |text| {
        found.push(Text {
            copy: at,
            number: found.len(),
            source: text.clone(),
            now: text.clone(),
        });
    });
    found.retain(|text| text.source.chars().any(char::is_alphabetic));
    found
}

fn visit(record: &mut Fields, fields: &[String], each: &mut dyn FnMut(&mut String)) {
    for field in fields {
        if let Some(value) = record.get_mut(field) {
            each_text(value, each);
        }
    }
}

/// What the models of an operator make of texts, one after the other; those that came to nothing are counted.
fn written<A: Author>(
    operator: &OperatorConfig,
    copies: &[Copy],
    mut texts: Vec<Text>,
    seed: u64,
    author: &mut A,
    dropped: &mut BTreeMap<&'static str, usize>,
) -> Result<Vec<Text>, A::Error> {
    for (turn, asking) in operator.asks().iter().enumerate() {
        let question = |text: &Text| {
            let Copy { place, copy, .. } = &copies[text.copy];
            let name = format!("{}/{}/{copy}/{}/{turn}", place.file, place.at, text.number);
            Question {
                prompt: asking.prompt.replace(TEXT, text.now.trim()),
                seed: sub_seed(seed, &name),
            }
        };
        let questions: Vec<Question> = texts.iter().map(question).collect();
        if questions.is_empty() {
            break;
        }
        let replies = author.ask(&asking.by, &questions)?;
        let mut left = Vec::new();
        for (mut text, reply) in texts.into_iter().zip(replies) {
            let loss = match reply {
                Reply::Text(answer) => {
                    text.now = safe::bare(&answer).to_owned();
                    text.now.is_empty().then_some(Loss::Empty)
                }
                Reply::Cut => Some(Loss::Cut),
                Reply::Failed => Some(Loss::Failed),
            };
            match loss {
                Some(loss) => *dropped.entry(loss.name()).or_default() += 1,
                None => left.push(text),
            }
        }
        texts = left;
    }
    Ok(texts)
}

fn row(config: &super::AugmentConfig, fields: &[String], copy: &Copy, new: BTreeMap<usize, String>) -> Row {
    let mut record = copy.record.clone();
    let mut number = 0;
    visit(&mut record, fields, &mut |text| {
        if let Some(new) = new.get(&number) {
            *text = framed(text, new);
        }
        number += 1;
    });
    let operator = &config.operators[copy.operator];
    let models = operator.asks().into_iter().map(|asking| match asking.by.name {
        Some(name) => format!("{name} at {}", asking.by.model),
        None => asking.by.model,
    });
    Row {
        file: copy.place.file as usize,
        made: Made {
            fields: record,
            source: Origin {
                file: String::new(),
                place: copy.place.at.to_string(),
                copy: copy.copy,
                operators: vec![operator.name()],
                models: models.collect(),
            },
        },
    }
}

/// The new text between the white space that the old one began and ended with.
fn framed(old: &str, new: &str) -> String {
    let start = &old[..old.len() - old.trim_start().len()];
    let end = &old[old.trim_end().len()..];
    format!("{start}{new}{end}")
}

/// What stands in the way of a section, where operators of both kinds are in it.
pub(super) fn mixed(config: &super::AugmentConfig) -> Option<Error> {
    let asks = |operator: &OperatorConfig| !operator.asks().is_empty();
    let wrong = match config.asks() {
        true if !config.operators.iter().all(asks) => {
            "operators that ask a model cannot stand beside others; write two files, or change one by the other"
        }
        true if config.apply == super::Apply::All => {
            return Some(Error::Config {
                key: "augment.apply".into(),
                what: "\"all\" is not for operators that ask a model; each copy is made by one of them".into(),
            });
        }
        _ => return None,
    };
    Some(Error::Config {
        key: "augment.operators".into(),
        what: wrong.into(),
    })
}

#[cfg(test)]
mod tests;
