//! How to generate: [`GenerationOptions`] is what was typed, [`GenerationConfig`] what it means for a checkpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// When beam search stops looking for better beams (`early_stopping` of transformers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EarlyStopping {
    /// When the best running beam, scored at its present length, is worse than the worst finished one.
    #[default]
    Heuristic,
    /// As soon as `num_beams` beams have finished.
    Always,
    /// Only when no running beam could still win at any length: the textbook algorithm.
    Never,
}

/// The settings that a person typed: the `[generate]` section of a config, or the flags of `ft generate`.
/// A key that is absent keeps the checkpoint's own value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationOptions {
    /// Most tokens to generate for a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Draw at random instead of taking the likeliest token. Follows from the other keys when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    /// Divides the logits; 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Keep the k likeliest tokens; 0 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens that together reach this probability; 1 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Above 1: tokens already in the prompt or the answer become less likely (arXiv:1909.05858).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// No run of this many tokens appears twice; 0 allows all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    /// Beams of the beam search; 1 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
    /// A beam's score is its log probability divided by length to this power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f64>,
    /// When beam search stops looking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Seed of the random draws.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Go on after a stop token, up to `max_new_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Prompts generated together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
}

impl GenerationOptions {
    /// A key that only sampling reads was typed, so sampling is what was meant.
    fn asks_for_sampling(&self) -> bool {
        self.temperature.is_some() || self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some()
    }
}

/// Complete settings of a generation. The defaults are those of transformers, except that 256 new tokens are allowed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerationConfig {
    /// Most tokens to generate for a prompt; a row also ends where the model's positions end.
    pub max_new_tokens: usize,
    /// Ids that end a row.
    pub eos_token_id: Vec<u32>,
    /// Draw at random; otherwise take the likeliest token.
    pub do_sample: bool,
    /// Divides the logits when sampling. Above 0.
    pub temperature: f64,
    /// Keep the k likeliest tokens when sampling; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens that together reach this probability when sampling; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this likely relative to the likeliest when sampling; 0 keeps all.
    pub min_p: f64,
    /// Penalty of tokens already seen; 1 is none.
    pub repetition_penalty: f64,
    /// No run of this many tokens appears twice; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Beams of the beam search; 1 is none.
    pub num_beams: usize,
    /// Exponent of the length that a beam's score is divided by.
    pub length_penalty: f64,
    /// When beam search stops looking.
    pub early_stopping: EarlyStopping,
    /// Seed of the random draws. Each prompt has its own stream, named by its index.
    pub seed: u64,
    /// Go on after a stop token.
    pub ignore_eos: bool,
    /// Prompts generated together (each takes `num_beams` rows of the batch).
    pub batch_size: usize,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            eos_token_id: Vec::new(),
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            seed: 42,
            ignore_eos: false,
            batch_size: 8,
        }
    }
}

impl GenerationConfig {
    /// Greedy decoding of at most `max_new_tokens` tokens, ended by any of `eos_token_id`.
    pub fn greedy(max_new_tokens: usize, eos_token_id: impl Into<Vec<u32>>) -> Self {
        Self {
            max_new_tokens,
            eos_token_id: eos_token_id.into(),
            ..Self::default()
        }
    }

    /// Adds a tokenizer's stop tokens: what fine-tuning taught a model to stop at may be unknown to its checkpoint.
    pub fn add_stops(&mut self, ids: &[u32]) {
        for id in ids {
            if !self.eos_token_id.contains(id) {
                self.eos_token_id.push(*id);
            }
        }
    }

    /// These settings with what was typed on top.
    ///
    /// Temperature 0 is greedy. A temperature above 0, `top_k`, `top_p` or `min_p` turn sampling on, and
    /// `num_beams` above 1 turns it off, unless `do_sample` says otherwise.
    ///
    /// # Errors
    /// [`Error::Settings`] lists every value out of range and every contradiction.
    pub fn with(mut self, typed: &GenerationOptions) -> Result<Self> {
        fn set<T: Copy>(field: &mut T, typed: Option<T>) {
            *field = typed.unwrap_or(*field);
        }
        set(&mut self.max_new_tokens, typed.max_new_tokens);
        set(&mut self.temperature, typed.temperature);
        set(&mut self.top_k, typed.top_k);
        set(&mut self.top_p, typed.top_p);
        set(&mut self.min_p, typed.min_p);
        set(&mut self.repetition_penalty, typed.repetition_penalty);
        set(&mut self.no_repeat_ngram_size, typed.no_repeat_ngram_size);
        set(&mut self.num_beams, typed.num_beams);
        set(&mut self.length_penalty, typed.length_penalty);
        set(&mut self.early_stopping, typed.early_stopping);
        set(&mut self.seed, typed.seed);
        set(&mut self.ignore_eos, typed.ignore_eos);
        set(&mut self.batch_size, typed.batch_size);
        self.do_sample = match typed.do_sample {
            Some(asked) => asked,
            None if typed.asks_for_sampling() => true,
            None => self.do_sample && self.num_beams == 1,
        };
        if self.temperature == 0.0 {
            self.do_sample = false;
            self.temperature = 1.0;
        }
        self.validate()?;
        Ok(self)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Settings`] lists every value out of range and every contradiction.
    pub fn validate(&self) -> Result<()> {
        let rules = [
            (self.max_new_tokens > 0, "max_new_tokens must be at least 1".to_string()),
            (self.num_beams > 0, "num_beams must be at least 1".to_string()),
            (self.batch_size > 0, "batch_size must be at least 1".to_string()),
            (
                self.temperature.is_finite() && self.temperature > 0.0,
                format!("temperature must be 0 (greedy) or above, not {}", self.temperature),
            ),
            (
                self.top_p > 0.0 && self.top_p <= 1.0,
                format!("top_p must lie in (0, 1], not {}", self.top_p),
            ),
            (
                (0.0..=1.0).contains(&self.min_p),
                format!("min_p must lie in [0, 1], not {}", self.min_p),
            ),
            (
                self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
                format!(
                    "repetition_penalty must be above 0 (1 is none), not {}",
                    self.repetition_penalty
                ),
            ),
            (
                self.length_penalty.is_finite(),
                format!("length_penalty must be a number, not {}", self.length_penalty),
            ),
            (
                !(self.do_sample && self.num_beams > 1),
                "num_beams above 1 searches and does not sample: set temperature = 0, or num_beams = 1".to_string(),
            ),
        ];
        let problems: Vec<String> = rules
            .into_iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, problem)| problem)
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Settings(problems))
        }
    }

    /// Whether `id` ends a row.
    pub fn stops_at(&self, id: u32) -> bool {
        !self.ignore_eos && self.eos_token_id.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(edit: impl FnOnce(&mut GenerationOptions)) -> GenerationOptions {
        let mut options = GenerationOptions::default();
        edit(&mut options);
        options
    }

    #[test]
    fn nothing_typed_changes_nothing() {
        let base = GenerationConfig {
            do_sample: true,
            top_p: 0.8,
            ..GenerationConfig::greedy(7, [2])
        };
        assert_eq!(base.clone().with(&GenerationOptions::default()).unwrap(), base);
    }

    #[test]
    fn sampling_follows_from_what_was_typed() {
        let greedy = GenerationConfig::default();
        let sampling = GenerationConfig {
            do_sample: true,
            ..GenerationConfig::default()
        };
        assert!(
            greedy
                .clone()
                .with(&typed(|o| o.temperature = Some(0.7)))
                .unwrap()
                .do_sample
        );
        assert!(greedy.clone().with(&typed(|o| o.top_p = Some(0.7))).unwrap().do_sample);
        assert!(
            !sampling
                .clone()
                .with(&typed(|o| o.temperature = Some(0.0)))
                .unwrap()
                .do_sample
        );
        assert!(
            !sampling
                .clone()
                .with(&typed(|o| o.num_beams = Some(4)))
                .unwrap()
                .do_sample
        );
        assert!(!sampling.with(&typed(|o| o.do_sample = Some(false))).unwrap().do_sample);
        let both = typed(|o| (o.temperature, o.top_k) = (Some(0.0), Some(5)));
        assert!(
            !greedy.with(&both).unwrap().do_sample,
            "temperature 0 is greedy whatever else is typed"
        );
    }

    #[test]
    fn every_bad_value_is_listed() {
        let bad = typed(|o| {
            o.max_new_tokens = Some(0);
            o.top_p = Some(1.5);
            o.min_p = Some(f64::NAN);
            o.temperature = Some(-1.0);
            o.repetition_penalty = Some(0.0);
            o.num_beams = Some(2);
        });
        let Error::Settings(problems) = GenerationConfig::default().with(&bad).unwrap_err() else {
            panic!()
        };
        assert_eq!(problems.len(), 6, "{problems:?}");
    }

    #[test]
    fn ignore_eos_disarms_the_stop_tokens() {
        let config = GenerationConfig::greedy(3, [2, 5]);
        assert!(config.stops_at(5) && !config.stops_at(4));
        assert!(
            !GenerationConfig {
                ignore_eos: true,
                ..config
            }
            .stops_at(5)
        );
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let error = serde_json::from_str::<GenerationOptions>(r#"{"temprature": 1.0}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("temprature") && error.contains("temperature"), "{error}");
    }
}
