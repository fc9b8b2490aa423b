//! Words that can stand for each other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operators::{Options, rate};
use crate::error::{Error, Result};

/// Groups of English words, one group a line: ours, small, and of common words alone.
const BUNDLED: &str = include_str!("lexicon.txt");

/// For every word, in lower case, the others of its groups.
#[derive(Debug)]
pub struct Lexicon(HashMap<String, Vec<String>>);

impl Lexicon {
    /// The bundled one, or that of a file with a group of words in each line, divided by commas.
    ///
    /// # Errors
    /// A file that cannot be read, and lines with a single word.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::parse(BUNDLED).expect("the bundled lexicon has groups"));
        };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|line| Error::File {
            file: path.display().to_string(),
            what: format!("line {line}: expected words that can stand for each other, divided by commas"),
        })
    }

    /// The number of the line that is no group is the error.
    fn parse(text: &str) -> std::result::Result<Self, usize> {
        let mut words: HashMap<String, Vec<String>> = HashMap::new();
        let lines = text.lines().enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
            let group: Vec<String> = line.split(',').map(|word| word.trim().to_lowercase()).collect();
            if group.len() < 2 || group.iter().any(String::is_empty) {
                return Err(number + 1);
            }
            for word in &group {
                let others = words.entry(word.clone()).or_default();
                others.extend(group.iter().filter(|other| *other != word).cloned());
            }
        }
        Ok(Self(words))
    }

    /// What can stand for a word in lower case.
    pub fn of(&self, word: &str) -> &[String] {
        self.0.get(word).map_or(&[], Vec::as_slice)
    }
}

/// Options of the operators that look words up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LexiconOptions {
    /// Changes for each word of the text (EDA's `alpha_sr`, `alpha_ri`); at least one is made.
    pub alpha: f64,
    /// File of synonyms, a group of words in each line, divided by commas, in the place of the small bundled one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lexicon: Option<PathBuf>,
}

impl Default for LexiconOptions {
    fn default() -> Self {
        Self {
            alpha: 0.1,
            lexicon: None,
        }
    }
}

impl Options for LexiconOptions {
    fn wrong(&self) -> Option<String> {
        rate("alpha", self.alpha)
    }
}
