//! Reads the generation settings that a checkpoint carries (`generation_config.json`).

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::EarlyStopping;
use crate::{Error, GenerationConfig, Result};

impl GenerationConfig {
    /// The settings of a checkpoint folder: the defaults, overlaid with its `generation_config.json` where there is one.
    ///
    /// `eos` holds the stop tokens of the folder's `config.json`; they count where `generation_config.json` names none.
    /// Keys that mean nothing here are passed over, as transformers does; `null` is the same as absent.
    ///
    /// # Errors
    /// An unreadable file, invalid JSON, or values of the wrong kind (all of them are listed).
    pub fn from_dir(dir: &Path, eos: &[u32]) -> Result<Self> {
        let path = dir.join("generation_config.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // No folder: a GGUF file.
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(Self {
                    eos_token_id: eos.to_vec(),
                    ..Self::default()
                });
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        let value = serde_json::from_str(&text).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        let mut file = File {
            keys: value,
            problems: Vec::new(),
        };
        let config = file.overlay(Self {
            eos_token_id: eos.to_vec(),
            ..Self::default()
        });
        if let Err(Error::Settings(problems)) = config.validate() {
            file.problems.extend(problems);
        }
        match file.problems.is_empty() {
            true => Ok(config),
            false => Err(Error::File {
                path,
                problems: file.problems,
            }),
        }
    }
}

/// The parsed file and the complaints about it so far.
struct File {
    keys: Map<String, Value>,
    problems: Vec<String>,
}

impl File {
    fn overlay(&mut self, base: GenerationConfig) -> GenerationConfig {
        let mut config = GenerationConfig {
            max_new_tokens: self.count("max_new_tokens", base.max_new_tokens),
            eos_token_id: self.ids("eos_token_id").unwrap_or(base.eos_token_id),
            do_sample: self
                .get("do_sample", "true or false", Value::as_bool)
                .unwrap_or(base.do_sample),
            temperature: self.number("temperature", base.temperature),
            top_k: self.count("top_k", base.top_k),
            top_p: self.number("top_p", base.top_p),
            min_p: self.number("min_p", base.min_p),
            repetition_penalty: self.number("repetition_penalty", base.repetition_penalty),
            no_repeat_ngram_size: self.count("no_repeat_ngram_size", base.no_repeat_ngram_size),
            num_beams: self.count("num_beams", base.num_beams),
            length_penalty: self.number("length_penalty", base.length_penalty),
            early_stopping: self
                .get("early_stopping", "true, false or \"never\"", early_stopping)
                .unwrap_or(base.early_stopping),
            ..base
        };
        // Old checkpoints write a temperature of 0 for greedy decoding.
        if config.temperature == 0.0 {
            (config.do_sample, config.temperature) = (false, 1.0);
        }
        config
    }

    /// The value of `key`, or `None` (and a complaint, when it is there but `read` cannot take it).
    fn get<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.keys.get(key).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.problems.push(format!("{key} must be {wanted}, not {value}"));
        }
        read
    }

    fn count(&mut self, key: &str, default: usize) -> usize {
        self.get(key, "a whole number of 0 or more", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
        .unwrap_or(default)
    }

    fn number(&mut self, key: &str, default: f64) -> f64 {
        self.get(key, "a number", Value::as_f64).unwrap_or(default)
    }

    fn ids(&mut self, key: &str) -> Option<Vec<u32>> {
        self.get(key, "a token id or a list of token ids", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            other => Some(vec![id(other)?]),
        })
    }
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn early_stopping(value: &Value) -> Option<EarlyStopping> {
    match value {
        Value::Bool(true) => Some(EarlyStopping::Always),
        Value::Bool(false) => Some(EarlyStopping::Heuristic),
        Value::String(word) if word == "never" => Some(EarlyStopping::Never),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<GenerationConfig> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), json).unwrap();
        GenerationConfig::from_dir(dir.path(), &[2])
    }

    #[test]
    fn without_a_file_the_stop_tokens_come_from_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let config = GenerationConfig::from_dir(dir.path(), &[7, 8]).unwrap();
        assert_eq!(
            config,
            GenerationConfig {
                eos_token_id: vec![7, 8],
                ..GenerationConfig::default()
            }
        );
    }

    #[test]
    fn the_file_wins_and_null_is_absent() {
        let config = parse(
            r#"{"bos_token_id": 1, "eos_token_id": [151645, 151643], "do_sample": true, "temperature": 0.6,
                "top_k": 20, "top_p": 0.95, "min_p": null, "early_stopping": "never", "transformers_version": "4.57.1"}"#,
        )
        .unwrap();
        assert_eq!(config.eos_token_id, [151645, 151643]);
        assert!(config.do_sample);
        assert_eq!(
            (config.temperature, config.top_k, config.top_p, config.min_p),
            (0.6, 20, 0.95, 0.0)
        );
        assert_eq!(config.early_stopping, EarlyStopping::Never);
    }

    #[test]
    fn one_id_or_none_will_do() {
        assert_eq!(parse(r#"{"eos_token_id": 5}"#).unwrap().eos_token_id, [5]);
        assert_eq!(parse("{}").unwrap().eos_token_id, [2]);
        assert!(!parse(r#"{"do_sample": true, "temperature": 0.0}"#).unwrap().do_sample);
    }

    #[test]
    fn hostile_files_are_typed_errors() {
        assert!(matches!(parse("{").unwrap_err(), Error::Json { .. }));
        assert!(matches!(parse("[1]").unwrap_err(), Error::Json { .. }));
        assert!(matches!(
            parse(r#"{"temperature": 1e999}"#).unwrap_err(),
            Error::Json { .. }
        ));
        let file = parse(r#"{"eos_token_id": [1, -4], "top_k": "many", "top_p": 3}"#).unwrap_err();
        let Error::File { problems, .. } = file else {
            panic!("{file}")
        };
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].contains("eos_token_id") && problems[0].contains("[1,-4]"),
            "{problems:?}"
        );
    }
}
