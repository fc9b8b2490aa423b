//! Samples of records that are made from the training records.

use std::collections::HashSet;

use super::{Dataset, Loader};
use crate::augment::{Augmenter, Made};
use crate::config::DataConfig;
use crate::error::{Place, Result};
use crate::sources::Source;
use crate::statistics::{Counts, Statistics};
use crate::tokenizer::Tokenizer;

/// Copies are made of records, and the records left out.
pub(super) struct Making {
    pub augmenter: Augmenter,
    pub fields: Vec<String>,
    pub files: Vec<String>,
    /// Of which records.
    pub places: HashSet<Place>,
}

impl Dataset {
    /// The samples of `other` after its own.
    pub fn extend(&mut self, other: Dataset, tokenizer: &Tokenizer) {
        let mut counts = self.statistics.counts;
        counts.add(&other.statistics.counts);
        self.samples.extend(other.samples);
        self.places.extend(other.places);
        self.cut.extend(other.cut);
        self.statistics = Statistics::measure(&self.samples, counts, tokenizer);
    }
}

/// What `data.augment` makes of training records.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmented {
    /// The samples.
    pub data: Dataset,
    /// The records that they are of.
    pub rows: Vec<Made>,
}

/// Makes further samples of the records of `train`: its files are read again, and no record that was held out becomes a training sample. None where `data.augment` is not given or could change nothing.
///
/// # Errors
/// As [`load_samples`], and for options of `data.augment` that do not fit the format.
pub fn load_augmented(
    train: &Dataset,
    config: &DataConfig,
    seed: u64,
    tokenizer: &Tokenizer,
    teacher: Option<&Tokenizer>,
) -> Result<Option<Augmented>> {
    let Some(augment) = &config.augment else {
        return Ok(None);
    };
    let augmenter = Augmenter::new(augment, seed)?;
    let fields = augmenter.fields(train.format.format())?;
    let config = DataConfig {
        format: Some(train.format),
        ..config.clone()
    };
    let tokenizer = config.tokenizer(tokenizer.clone())?;
    let teacher = config.teacher(teacher);
    let mut loader = Loader::new(&config, &tokenizer, teacher.as_ref())?;
    loader.making = Some(Making {
        augmenter,
        fields,
        files: train.files.clone(),
        places: train.places.iter().copied().collect(),
    });
    let sources: Vec<Source> = train.files.iter().map(|file| Source::File(file.as_ref())).collect();
    loader.read(&sources)?;
    let rows = std::mem::take(&mut loader.made);
    if loader.samples.is_empty() {
        return Ok(None);
    }
    loader.counts = Counts {
        made: loader.samples.len(),
        records: 0,
        ..loader.counts
    };
    let data = loader.finish()?;
    Ok(Some(Augmented { data, rows }))
}
