//! The `[data]` section of a run's configuration. The comments on the fields are the descriptions in the JSON schema.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::formats::FormatName;
use crate::labels::Labels;
use crate::pack::Pack;
use crate::sources::{Files, Role};

/// Where the examples are and how they become samples. Paths are relative to the current directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Training examples: a file (.jsonl, .json, .csv, .tsv or .txt, plain or with .gz or .zst behind it), a folder (all data files in
    /// it, by name), a pattern such as "data/*.jsonl", or a list of these.
    #[serde(default, skip_serializing_if = "Files::is_empty")]
    pub train: Files,
    /// Held-out examples, named in the same way and in the same format. Without it, `valid_split_name` and `valid_split` nothing is
    /// evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Files>,
    /// The split to train on of folders laid out as the Hub does: `train.jsonl`, `data/train-00000-of-00003.csv`, `train/part.csv`.
    /// "train" where there is one and nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The split to hold out, of the folders in `valid`, or in `train` where `valid` is not given. Of folders in `valid`, "validation" or
    /// else "test" where nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_split_name: Option<String>,
    /// Read at most so many training records, the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Share of the training examples to hold out instead of a `valid` file, from 0 to below 1. Examples with the same prompt stay
    /// on the same side.
    #[serde(default)]
    pub valid_split: f64,
    /// How a record becomes text. Left out, it is recognised by the columns of the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FormatName>,
    /// Fills the fields of the format from other columns: each value is a text with `{column}` placeholders, `{{` and `}}` standing for
    /// braces. `{triples[0][1]}` and `{author.name}` reach into lists and objects, `{refs[-1]}` is the last item, and
    /// `{refs|join(", ")}` writes a list as text. A value that is one placeholder and nothing else passes lists and objects through.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, String>,
    /// Longest sample in tokens.
    #[serde(default = "defaults::max_length")]
    pub max_length: usize,
    /// What happens to longer samples.
    #[serde(default)]
    pub overlong: Overlong,
    /// Packing: samples share rows of at most `max_length` tokens and never see each other. "auto": the samples of a forward pass share
    /// its rows where samples are short, and steps stay what they are. true: rows are filled from all samples, and
    /// `train.batch_size` counts rows. false: every sample has a row of its own.
    #[serde(default)]
    pub pack: Pack,
    /// A new random order each epoch, with samples of similar length batched together; false keeps the order of the file.
    #[serde(default = "defaults::shuffle")]
    pub shuffle: bool,
    /// What separates documents in plain-text files: a line break makes every line a document, an empty text makes the file one
    /// document.
    #[serde(default = "defaults::separator")]
    pub separator: String,
    /// The chat template to use instead of the tokenizer's own: a file with one in Jinja, or a name: "chatml", "deepseek-r1", "deepseek-v3",
    /// "gemma3", "gpt-oss", "llama3", "llama3.1", "llama3.2", "mistral-v3", "mistral-v3-tekken", "mistral-v7-tekken", "phi4", "qwen2.5",
    /// "qwen3", "smollm2", "smollm3" or "zephyr".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Whether tokens are kept on the disk, so that the next run need not make them and no set has to fit into memory. "auto": those of
    /// 32 MiB of data files and more, in the user's cache folder (`FT_CACHE`, or `ft` in the folder for caches). true: all. false: none.
    /// Else the folder to keep them in. Another content, tokenizer, template, format, map or length is another entry.
    #[serde(default)]
    pub cache: Cache,
    /// The user's cache folder, where it is known.
    #[serde(skip)]
    pub cache_folder: Option<PathBuf>,
    /// The labels that a head learns, where the objective has one.
    #[serde(skip)]
    pub labels: Option<Labels>,
    /// Further training records made from those of `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentConfig>,
    /// Further variables for the chat template, such as `enable_thinking = false` or a fixed `date_string`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
}

/// What happens to samples longer than `max_length`. Whatever it does is counted in the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// Keep the first `max_length` tokens; drop the sample if none of them is learned.
    #[default]
    Truncate,
    /// Leave the sample out.
    Drop,
    /// Refuse the file, listing the lines.
    Error,
    /// Cut into consecutive windows of `max_length` tokens; for the `text` format only.
    Split,
}

/// The defaults that are not the type's own.
mod defaults {
    pub fn max_length() -> usize {
        1024
    }

    pub fn shuffle() -> bool {
        true
    }

    pub fn separator() -> String {
        "\n".into()
    }
}

impl DataConfig {
    /// The defaults, reading `train`.
    pub fn new(train: impl Into<Files>) -> DataConfig {
        DataConfig {
            train: train.into(),
            valid: None,
            split: None,
            valid_split_name: None,
            limit: None,
            valid_split: 0.0,
            format: None,
            map: BTreeMap::new(),
            max_length: defaults::max_length(),
            overlong: Overlong::default(),
            pack: Pack::default(),
            shuffle: defaults::shuffle(),
            separator: defaults::separator(),
            chat_template: None,
            cache: Cache::default(),
            cache_folder: None,
            labels: None,
            augment: None,
            chat_template_kwargs: serde_json::Map::new(),
        }
    }

    /// The training files themselves, folders and patterns resolved.
    ///
    /// # Errors
    /// As [`Files::resolve`].
    pub fn train_files(&self) -> Result<Files> {
        self.train.resolve(self.split.as_deref(), Role::Train)
    }

    /// The held-out files themselves, where any are named.
    ///
    /// # Errors
    /// As [`Files::resolve`].
    pub fn valid_files(&self) -> Result<Option<Files>> {
        let name = self.valid_split_name.as_deref();
        match &self.valid {
            Some(files) => files.resolve(name, Role::HeldOut).map(Some),
            None if name.is_some() => self.train.resolve(name, Role::HeldOut).map(Some),
            None => Ok(None),
        }
    }

    /// The settings for held-out records, of which all are read.
    pub fn held_out(&self) -> DataConfig {
        DataConfig {
            limit: None,
            ..self.clone()
        }
    }

    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`Error::Config`] for values out of range, contradictions, and `map` keys that the format does not have.
    pub fn check(&self) -> Result<()> {
        let fail = |key: &str, what: String| Err(Error::Config { key: key.into(), what });
        if self.max_length < 2 {
            return fail(
                "max_length",
                format!("{} leaves nothing to predict; at least 2", self.max_length),
            );
        }
        if !(0.0..1.0).contains(&self.valid_split) {
            return fail(
                "valid_split",
                format!("{} is not a share from 0 to below 1", self.valid_split),
            );
        }
        for (key, given) in [
            ("valid", self.valid.is_some()),
            ("valid_split_name", self.valid_split_name.is_some()),
        ] {
            if given && self.valid_split > 0.0 {
                let what = format!("cannot be combined with data.{key}; keep one of them");
                return fail("valid_split", what);
            }
        }
        if self.limit == Some(0) {
            return fail("limit", "0 leaves nothing to read; at least 1".into());
        }
        if self.overlong == Overlong::Split && self.format.is_some_and(|f| f.as_str() != "text") {
            return fail(
                "overlong",
                "\"split\" is for the text format; a cut answer would lose its prompt".into(),
            );
        }
        if let Some(augment) = &self.augment {
            augment.check()?;
        }
        crate::map::Mapping::parse(self).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<DataConfig, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn left_out_keys_get_the_defaults_of_new() {
        assert_eq!(parse(json!({"train": "a.jsonl"})).unwrap(), DataConfig::new("a.jsonl"));
    }

    #[test]
    fn a_resolved_config_reads_back() {
        let mut config = DataConfig::new("a.csv");
        config.format = Some("prompt-completion".parse().unwrap());
        config.map.insert("prompt".into(), "{mr}".into());
        config.overlong = Overlong::Error;
        config
            .chat_template_kwargs
            .insert("enable_thinking".into(), json!(false));
        assert_eq!(parse(serde_json::to_value(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn unknown_keys_and_formats_are_refused() {
        assert!(
            parse(json!({"train": "a", "trian": "b"}))
                .unwrap_err()
                .to_string()
                .contains("trian")
        );
        let error = parse(json!({"train": "a", "format": "prompt_completion"}))
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `prompt-completion`?"), "{error}");
    }

    #[test]
    fn contradictions_name_the_key() {
        let check = |edit: fn(&mut DataConfig)| {
            let mut config = DataConfig::new("a");
            edit(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(check(|c| c.max_length = 1).starts_with("data.max_length: 1 leaves"));
        assert!(check(|c| c.valid_split = 1.0).starts_with("data.valid_split"));
        assert!(check(|c| c.valid_split = f64::NAN).starts_with("data.valid_split"));
        assert!(
            check(|c| {
                c.valid = Some("v".into());
                c.valid_split = 0.1;
            })
            .contains("data.valid")
        );
        assert!(
            check(|c| {
                c.overlong = Overlong::Split;
                c.format = Some("chat".parse().unwrap());
            })
            .starts_with("data.overlong")
        );
    }

    #[test]
    fn every_key_is_described_in_the_schema() {
        let schema = serde_json::to_value(schemars::schema_for!(DataConfig)).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        for (key, property) in properties {
            assert!(
                property["description"].as_str().is_some_and(|d| d.len() > 15),
                "{key}: {property}"
            );
        }
        let text = schema.to_string();
        assert!(
            text.contains("prompt-completion") && text.contains("instruct"),
            "formats are listed: {text}"
        );
    }
}
