//! The samples of a run, and what there is to say about them.

use ft_data::{
    Cached, DataConfig, Dataset, Examples, Files, Overlong, Preference, Sample, Statistics, Tokenizer, checksum, leaks,
    load_augmented, load_samples, load_taught,
};
use serde::Serialize;

use crate::config::RunConfig;
use crate::objectives::ObjectiveConfig;
use crate::tasks::Tasks;
use crate::{Error, Result};

/// Samples and tokens of a run.
#[derive(Clone, Debug, Serialize)]
pub struct DataSummary {
    /// Name of the format.
    pub format: String,
    /// Whether a head learns what the records say of their texts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub labelled: bool,
    /// The training samples.
    pub train: Statistics,
    /// The held-out samples.
    pub valid: Option<Statistics>,
    /// Held-out samples whose prompt is trained on, of tasks by their own training samples.
    pub leaked: usize,
    /// The token that the samples teach as the end of an answer.
    pub stop_token: Option<u32>,
    /// CRC-32 of the training samples, tokens and learned marks.
    pub crc32: u32,
    /// What the token cache had to do with them and the held-out ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cached: Vec<Cached>,
    /// The same task by task, where there are tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskSummary>,
}

/// Samples of a task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskSummary {
    /// Its name.
    pub name: String,
    /// Training samples.
    pub samples: usize,
    /// Their target tokens.
    pub learned: usize,
    /// Held-out samples.
    pub held_out: usize,
    /// Those of them whose prompt is among its training samples.
    pub leaked: usize,
    /// Its samples in one pass over the mixture, which has some of them several times or not all of them.
    pub per_epoch: usize,
}

/// Who reads the files of a run.
#[derive(Clone, Copy)]
pub(super) struct Readers<'a> {
    /// For the model that trains.
    pub tokenizer: &'a Tokenizer,
    /// For a teacher with another tokenizer.
    pub teacher: Option<&'a Tokenizer>,
}

/// What the files of a run hold.
pub(super) struct Loaded {
    pub train: Vec<Sample>,
    pub valid: Vec<Sample>,
    pub summary: DataSummary,
    /// Whose samples they are.
    pub tasks: Tasks,
}

impl DataSummary {
    /// Whether samples have prompts and answers, rather than being plain text.
    pub fn has_answers(&self) -> bool {
        self.format != "text" && !self.labelled
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

/// The samples of a run.
pub(super) fn load(config: &RunConfig, tokenizer: &Tokenizer, teacher: Option<&Tokenizer>) -> Result<Loaded> {
    if teacher.is_some() && config.data.overlong == Overlong::Split {
        let why = "data.overlong = \"split\": windows of this model's tokens are none of the teacher's, which has another tokenizer; use \"truncate\"";
        return Err(Error::Plan(vec![why.into()]));
    }
    let readers = Readers { tokenizer, teacher };
    if !config.task.is_empty() {
        return super::tasks::load(config, readers);
    }
    let data = &config.data;
    present(found(data, |key| format!("data.{key}")))?;
    let (train, valid) = pair(config, data, readers)?;
    let summary = DataSummary {
        format: train.format.as_str().to_owned(),
        labelled: train.format.examples() == Examples::Labelled,
        valid: valid
            .as_ref()
            .map(|v| Statistics::measure(&v.samples, v.statistics.counts, tokenizer)),
        leaked: leaked(&train, valid.as_ref()),
        crc32: checksum(&train.samples),
        cached: cached([Some(&train), valid.as_ref()]),
        train: train.statistics,
        stop_token: None,
        tasks: Vec::new(),
    };
    Ok(Loaded {
        train: train.samples,
        valid: valid.map_or(Vec::new(), |v: Dataset| v.samples),
        summary,
        tasks: Tasks::default(),
    })
}

/// What the token cache had to do with sets, each folder once.
pub(super) fn cached<'d>(sets: impl IntoIterator<Item = Option<&'d Dataset>>) -> Vec<Cached> {
    let mut all: Vec<Cached> = Vec::new();
    for cached in sets.into_iter().flatten().filter_map(|set| set.cached.as_ref()) {
        if all.iter().all(|other| other.folder != cached.folder) {
            all.push(cached.clone());
        }
    }
    all
}

/// Whether the files of a section are there, by key.
pub(super) fn found(data: &DataConfig, key: impl Fn(&str) -> String) -> [(String, ft_data::Result<()>); 2] {
    let valid = if data.valid.is_some() {
        "valid"
    } else {
        "valid_split_name"
    };
    [
        (key("train"), data.train_files().map(drop)),
        (key(valid), data.valid_files().map(drop)),
    ]
}

/// Refuses files that are not there, all at once.
pub(super) fn present(files: impl IntoIterator<Item = (String, ft_data::Result<()>)>) -> Result<()> {
    let missing = files.into_iter().filter_map(|(key, found)| Some((key, found.err()?)));
    let missing: Vec<String> = missing.map(|(key, why)| format!("{key}: {why}")).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::Plan(missing)),
    }
}

/// Training and held-out samples of the section, or of a task's.
pub(super) fn pair(config: &RunConfig, data: &DataConfig, readers: Readers) -> Result<(Dataset, Option<Dataset>)> {
    let Readers { tokenizer, teacher } = readers;
    let train = read(&data.train_files()?, data, config, readers)?;
    let (mut train, mut valid) = match &data.valid_files()? {
        Some(files) => (train, Some(read(files, &data.held_out(), config, readers)?)),
        None if data.valid_split > 0.0 => {
            let (train, valid) = train.split(data.valid_split, config.train.seed, tokenizer);
            (train, Some(valid))
        }
        None => (train, None),
    };
    // What was held out is known: nothing is made from it.
    if let Some(made) = load_augmented(&train, data, config.train.seed, tokenizer, teacher)? {
        train.extend(fitting(made.data, &data.train, config, tokenizer)?, tokenizer);
    }
    if let (Some(valid), Some(limit)) = (&mut valid, config.eval.max_samples) {
        let (samples, places) = (std::mem::take(&mut valid.samples), std::mem::take(&mut valid.places));
        valid.samples = spread(samples, limit);
        valid.places = spread(places, limit);
    }
    Ok((train, valid))
}

/// Held-out samples whose prompt is trained on.
pub(super) fn leaked(train: &Dataset, valid: Option<&Dataset>) -> usize {
    valid.map_or(0, |valid| leaks(&train.samples, &valid.samples).len())
}

/// The samples of `eval.general`.
pub(super) fn general(config: &RunConfig, tokenizer: &Tokenizer) -> Result<Vec<Sample>> {
    let Some(path) = &config.eval.general else {
        return Ok(Vec::new());
    };
    let files = Files::from(path).resolve(None, ft_data::Role::HeldOut);
    present([("eval.general".into(), files.map(drop))])?;
    let data = DataConfig {
        max_length: config.data.max_length,
        separator: config.data.separator.clone(),
        cache: config.data.cache.clone(),
        cache_folder: config.data.cache_folder.clone(),
        ..DataConfig::new(path)
    };
    let samples = load_samples(path, &data, tokenizer)?.samples;
    Ok(spread(samples, config.eval.max_samples.unwrap_or(usize::MAX)))
}

/// The samples of files, if they are examples of what the objective learns from.
fn read(files: &Files, data: &DataConfig, config: &RunConfig, readers: Readers) -> Result<Dataset> {
    let Readers { tokenizer, teacher } = readers;
    let data = match teacher {
        Some(teacher) => load_taught(files, data, tokenizer, teacher)?,
        None => load_samples(files, data, tokenizer)?,
    };
    if teacher.is_some() && data.format.as_str() == "pre-tokenized" {
        return Err(Error::Plan(vec![format!(
            "data.format = \"pre-tokenized\": {files} holds tokens of this model, and the teacher has another tokenizer; give text"
        )]));
    }
    fitting(data, files, config, tokenizer)
}

fn fitting(data: Dataset, files: &Files, config: &RunConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    let (objective, format) = (&config.objective, data.format.as_str());
    match (objective.kind().examples(), data.format.examples()) {
        (wanted, found) if wanted == found => Ok(data),
        (Examples::Rated, Examples::Pairs) => Ok(unpaired(data, tokenizer)),
        (wanted, found) => {
            let fitting = ObjectiveConfig::learning_from(found).join("\", \"");
            Err(Error::Plan(vec![format!(
                "objective.kind = \"{}\" learns from {}, and {} holds {} (format \"{format}\"): set objective.kind to \"{fitting}\", or \
                 data.format and data.map to what is to be learned",
                objective.name(),
                described(wanted),
                files,
                described(found),
            )]))
        }
    }
}

fn described(examples: Examples) -> &'static str {
    match examples {
        Examples::Samples => "answers or texts",
        Examples::Pairs => "pairs of a chosen and a rejected answer",
        Examples::Rated => "answers that are rated good or bad",
        Examples::Labelled => "texts with labels",
        Examples::Similar => "pairs of texts that mean the same (anchor, positive)",
    }
}

/// Both answers of every pair, rated.
fn unpaired(data: Dataset, tokenizer: &Tokenizer) -> Dataset {
    let split = |mut sample: Sample| match std::mem::take(&mut sample.preference) {
        Preference::Over(rejected) => vec![sample.rated(true), rejected.rated(false)],
        preference => {
            sample.preference = preference;
            vec![sample]
        }
    };
    let places = data.places.iter().zip(&data.samples);
    let places = places.flat_map(|(place, sample)| vec![*place; sample.rows()]).collect();
    let samples: Vec<Sample> = data.samples.into_iter().flat_map(split).collect();
    Dataset {
        statistics: Statistics::measure(&samples, data.statistics.counts, tokenizer),
        files: data.files,
        places,
        cut: data.cut,
        samples,
        format: data.format,
        cached: data.cached,
    }
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
