//! What changes a text: one file per operator, one line per operator in the list here.

mod back_translation;
mod case;
mod delete;
mod insert;
mod keyboard;
mod noise;
mod ocr;
mod paraphrase;
mod swap;
mod synonyms;
mod templates;

use std::fmt::Debug;

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Protected;
use super::asked::Asking;
use super::lexicon::LexiconOptions;
use crate::error::{Error, Result};
use ft_seed::below;

/// An operator, ready to be applied.
pub trait Operator: Debug + Send + Sync {
    /// A changed text, or the same where nothing in it can be changed.
    fn apply(&self, text: &str, change: &[Protected], rng: &mut ChaCha8Rng) -> String;
}

/// The options of an operator.
pub trait Options {
    /// What is wrong with them.
    fn wrong(&self) -> Option<String>;

    /// The models that are asked, in turn; none for an operator that is a function of the text and its draws.
    fn asks(&self) -> Vec<Asking> {
        Vec::new()
    }
}

macro_rules! operators {
    ($( $(#[$doc:meta])* $name:literal => $variant:ident($options:ty) in $file:ident, )+) => {
        /// An operator with its options.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "kind")]
        pub enum OperatorConfig {
            $( $(#[$doc])* #[serde(rename = $name)] $variant($options), )+
        }

        impl OperatorConfig {
            /// The values of `kind`.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The value of `kind`.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            fn options(&self) -> &dyn Options {
                match self { $( Self::$variant(options) => options, )+ }
            }

            /// The operator.
            ///
            /// # Errors
            /// Files that cannot be read.
            pub(super) fn build(&self) -> Result<Box<dyn Operator>> {
                match self { $( Self::$variant(options) => $file::build(options), )+ }
            }
        }
    };
}

operators! {
    /// Words change places with each other (EDA's random swap).
    "swap" => Swap(swap::Options) in swap,
    /// Words are left out (EDA's random deletion).
    "delete" => Delete(delete::Options) in delete,
    /// Synonyms of words are put somewhere (EDA's random insertion).
    "insert" => Insert(LexiconOptions) in insert,
    /// Synonyms take the place of words (EDA's synonym replacement).
    "synonyms" => Synonyms(LexiconOptions) in synonyms,
    /// Slips to a neighbouring key (nlpaug's `KeyboardAug`).
    "keyboard" => Keyboard(noise::Amount) in keyboard,
    /// Letters that scanners take for each other (nlpaug's `OcrAug`).
    "ocr" => Ocr(noise::Amount) in ocr,
    /// Another case.
    "case" => Case(case::Options) in case,
    /// The text inside another wording: prompt templates.
    "templates" => Templates(templates::Options) in templates,
    /// Other words, by a model that is asked; for `ft data augment`.
    "paraphrase" => Paraphrase(paraphrase::Options) in paraphrase,
    /// Translated and back, by one model or two; for `ft data augment`.
    "back_translation" => BackTranslation(back_translation::Options) in back_translation,
}

impl OperatorConfig {
    /// What is wrong with the options.
    pub(super) fn wrong(&self) -> Option<String> {
        self.options().wrong()
    }

    /// The models that it asks, in turn.
    pub(super) fn asks(&self) -> Vec<Asking> {
        self.options().asks()
    }
}

/// Why an operator cannot be applied while records are read.
fn asks_a_model(name: &str) -> Error {
    Error::Config {
        key: "augment.operators".into(),
        what: format!(
            "{name} asks a model, whose answers no seed fixes; write them to a file first (`ft data augment CONFIG --out made.jsonl`), and \
             train on that (data.train = [.., \"made.jsonl\"]) without this section"
        ),
    }
}

/// A rate from 0 to 1.
pub fn rate(name: &str, value: f64) -> Option<String> {
    (!(0.0..=1.0).contains(&value)).then(|| format!("`{name}` {value} is not a rate from 0 to 1"))
}

/// EDA's number of changes in a text of so many words: max(1, ⌊α l⌋).
fn changes(alpha: f64, words: usize) -> usize {
    ((alpha * words as f64) as usize).max(1)
}

/// `count` of the items, drawn without repetition, in their order.
fn some(mut items: Vec<usize>, count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    while items.len() > count {
        items.remove(below(rng, items.len()));
    }
    items
}
