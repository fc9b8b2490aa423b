//! The samples of a run, and what there is to say about them.

use ft_data::{Dataset, Sample, Statistics, Tokenizer, load_samples};
use serde::Serialize;

use crate::config::RunConfig;
use crate::{Error, Result};

/// Samples and tokens of a run.
#[derive(Clone, Debug, Serialize)]
pub struct DataSummary {
    /// Name of the format.
    pub format: String,
    /// The training samples.
    pub train: Statistics,
    /// The held-out samples.
    pub valid: Option<Statistics>,
    /// The token that the samples teach as the end of an answer.
    pub stop_token: Option<u32>,
    /// CRC-32 of the training samples, tokens and learned marks.
    pub crc32: u32,
}

impl DataSummary {
    /// Whether samples have prompts and answers, rather than being plain text.
    pub fn has_answers(&self) -> bool {
        self.format != "text"
    }
}

/// The tokenizer that the model was made with, with the chat template of the `[data]` section.
pub(super) fn tokenizer(config: &RunConfig) -> Result<Tokenizer> {
    let (folder, key) = match &config.model.tokenizer {
        Some(folder) => (folder, "model.tokenizer"),
        None => (&config.model.path, "model.path"),
    };
    Ok(config
        .data
        .tokenizer(Tokenizer::from_dir(super::existing(folder, key)?)?)?)
}

/// Training and held-out samples.
pub(super) fn load(config: &RunConfig, tokenizer: &Tokenizer) -> Result<(Vec<Sample>, Vec<Sample>, DataSummary)> {
    let data = &config.data;
    let missing = [("data.train", Some(&data.train)), ("data.valid", data.valid.as_ref())];
    let missing = missing
        .into_iter()
        .filter_map(|(key, path)| path.filter(|p| !p.is_file()).map(|p| (key, p)));
    let missing: Vec<String> = missing
        .map(|(key, path)| format!("{key}: no file {}", path.display()))
        .collect();
    if !missing.is_empty() {
        return Err(Error::Plan(missing));
    }
    let train = load_samples(&data.train, data, tokenizer)?;
    let (train, mut valid) = match &data.valid {
        Some(path) => (train, Some(load_samples(path, data, tokenizer)?)),
        None if data.valid_split > 0.0 => {
            let (train, valid) = train.split(data.valid_split, config.train.seed, tokenizer);
            (train, Some(valid))
        }
        None => (train, None),
    };
    if let (Some(valid), Some(limit)) = (&mut valid, config.eval.max_samples) {
        let (samples, places) = (std::mem::take(&mut valid.samples), std::mem::take(&mut valid.places));
        valid.samples = spread(samples, limit);
        valid.places = spread(places, limit);
    }
    let summary = DataSummary {
        format: train.format.as_str().to_owned(),
        valid: valid
            .as_ref()
            .map(|v| Statistics::measure(&v.samples, v.statistics.counts, tokenizer)),
        crc32: checksum(&train.samples),
        train: train.statistics,
        stop_token: None,
    };
    Ok((train.samples, valid.map_or(Vec::new(), |v: Dataset| v.samples), summary))
}

/// At most `limit` of the items, at even distances: neighbours in a file are often alike.
pub(crate) fn spread<T>(items: Vec<T>, limit: usize) -> Vec<T> {
    let count = items.len();
    if count <= limit {
        return items;
    }
    let chosen: Vec<usize> = (0..limit).map(|i| i * count / limit).collect();
    let kept = items
        .into_iter()
        .enumerate()
        .filter(|(i, _)| chosen.binary_search(i).is_ok());
    kept.map(|(_, item)| item).collect()
}

fn checksum(samples: &[Sample]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for sample in samples {
        crc.update(&(sample.len() as u64).to_le_bytes());
        for (id, learn) in sample.ids.iter().zip(&sample.learn) {
            crc.update(&id.to_le_bytes());
            crc.update(&[u8::from(*learn)]);
        }
    }
    crc.finalize()
}
