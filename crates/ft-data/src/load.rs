//! From a file to samples: read in order, worked on in parallel, put back in order.

mod augmented;
mod records;

use std::ops::ControlFlow;

use rayon::prelude::*;

use crate::augment::Made;
use crate::config::{DataConfig, Overlong};
use crate::error::{Error, Flaw, MAX_FLAWS, Place, Result};
use crate::formats::{Format, FormatName, Record, disliked, made, near_miss};
use crate::map::{Fields, Mapping};
use crate::sample::Sample;
use crate::sources::{self, Body, Files, Raw, Role, Source};
use crate::statistics::{Counts, Statistics};
use crate::tokenizer::Tokenizer;
use augmented::Making;
pub use augmented::{Augmented, load_augmented};
pub use records::{Duplicates, Records, Row, load_records};
use records::{Keep, Kept};

/// The samples of files, in their order, with where they came from and what was counted on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The samples.
    pub samples: Vec<Sample>,
    /// The files that were read.
    pub files: Vec<String>,
    /// Where each sample's record stands.
    pub places: Vec<Place>,
    /// Where the records stand of which the cut at `max_length` left nothing to learn.
    pub emptied: Vec<Place>,
    /// How they were read.
    pub format: FormatName,
    /// Tokens, lengths, and what the over-length policy did.
    pub statistics: Statistics,
}

/// Reads and tokenizes the examples of `files` as `config` says (its `train` and `valid` are not looked at).
///
/// # Errors
/// Files that cannot be read, hold nothing, or have unusable records: all of them (up to [`MAX_FLAWS`]) with their lines.
pub fn load_samples(files: impl Into<Files>, config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    let files = files.into().resolve(config.split.as_deref(), Role::Train)?;
    let sources: Vec<Source> = files.paths().iter().map(|path| Source::File(path)).collect();
    load_sources(&sources, config, tokenizer)
}

/// The same for a [`Source`], which may be built into the program.
///
/// # Errors
/// As [`load_samples`].
pub fn load_source(source: Source, config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    load_sources(&[source], config, tokenizer)
}

fn load_sources(sources: &[Source], config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    config.check()?;
    let tokenizer = config.tokenizer(tokenizer.clone())?;
    let mut loader = Loader::new(config, &tokenizer)?;
    loader.read(sources)?;
    loader.finish()
}

impl DataConfig {
    /// `tokenizer` with the chat template and the template variables that this section sets. Loading does so itself; do it as well for
    /// the tokenizer that generates and that is saved with the model.
    ///
    /// # Errors
    /// A template file that cannot be read or parsed.
    pub fn tokenizer(&self, tokenizer: Tokenizer) -> Result<Tokenizer> {
        let tokenizer = match &self.chat_template {
            Some(path) => {
                let source = std::fs::read_to_string(path).map_err(|source| Error::Io {
                    path: path.clone(),
                    source,
                })?;
                tokenizer.with_chat_template(&source)?
            }
            None => tokenizer,
        };
        Ok(tokenizer.with_chat_template_kwargs(&self.chat_template_kwargs))
    }
}

/// Records are worked on in groups of this many, or of [`GROUP_BYTES`].
const GROUP: usize = 4096;
const GROUP_BYTES: usize = 16 << 20;

struct Loader<'a> {
    config: &'a DataConfig,
    tokenizer: &'a Tokenizer,
    mapping: Mapping,
    format: Option<FormatName>,
    files: Vec<String>,
    group: Vec<(Place, Body)>,
    group_bytes: usize,
    taken: usize,
    samples: Vec<Sample>,
    places: Vec<Place>,
    counts: Counts,
    flaws: Vec<(Place, Flaw)>,
    emptied: Vec<Place>,
    making: Option<Making>,
    made: Vec<Made>,
    keep: Option<Keep>,
    rows: Vec<Row>,
}

impl<'a> Loader<'a> {
    fn new(config: &'a DataConfig, tokenizer: &'a Tokenizer) -> Result<Loader<'a>> {
        if let Some(format) = config.format {
            format.format().check(tokenizer)?;
        }
        Ok(Loader {
            config,
            tokenizer,
            mapping: Mapping::parse(config)?,
            format: config.format,
            files: vec![],
            group: vec![],
            group_bytes: 0,
            taken: 0,
            samples: vec![],
            places: vec![],
            counts: Counts::default(),
            flaws: vec![],
            emptied: vec![],
            making: None,
            made: vec![],
            keep: None,
            rows: vec![],
        })
    }

    fn read(&mut self, sources: &[Source]) -> Result<()> {
        for source in sources {
            self.files.push(source.name());
            let mut outcome = Ok(());
            sources::read(*source, &self.config.separator, &mut |raw| {
                if self.config.limit.is_some_and(|limit| self.taken >= limit) {
                    self.counts.limited = true;
                    return ControlFlow::Break(());
                }
                outcome = self.take(raw);
                match outcome.is_ok() && self.flaws.len() < MAX_FLAWS {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            outcome?;
            if self.counts.limited || self.flaws.len() >= MAX_FLAWS {
                break;
            }
        }
        self.work();
        Ok(())
    }

    fn take(&mut self, Raw { at, mut body }: Raw) -> Result<()> {
        if self.format.is_none() {
            body = self.detect_format(body)?;
        }
        let file = u32::try_from(self.files.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.taken += 1;
        self.group_bytes += body.weight();
        self.group.push((Place { file, at }, body));
        if self.group.len() >= GROUP || self.group_bytes >= GROUP_BYTES {
            self.work();
        }
        Ok(())
    }

    /// The first record with columns says what the format is.
    fn detect_format(&mut self, body: Body) -> Result<Body> {
        let fields = match body.fields() {
            Ok(fields) => fields,
            Err(flaw) => return Ok(Body::Flawed(flaw)),
        };
        let columns = match self.mapping.is_empty() {
            true => made(&fields),
            false => fields.clone(),
        };
        let names = self.mapping.names(&columns);
        if self.mapping.is_empty()
            && let Some(what) = near_miss(&columns)
        {
            return Err(Error::Config {
                key: "format".into(),
                what,
            });
        }
        let Some(format) = FormatName::detect(&names) else {
            let shapes = FormatName::all().map(|f| format!("\n  {}: {}", f.as_str(), f.fields().join(", ")));
            let what = format!(
                "no format fits the fields {}; set it, and data.map to fill its fields. The formats and their fields:{}",
                names.join(", "),
                shapes.collect::<String>()
            );
            return Err(Error::Config {
                key: "format".into(),
                what,
            });
        };
        // With the format known, its own conditions on the settings can be checked.
        DataConfig {
            format: Some(format),
            ..self.config.clone()
        }
        .check()?;
        format.format().check(self.tokenizer)?;
        self.format = Some(format);
        Ok(Body::Fields(fields))
    }

    /// Turns the waiting records into samples: in parallel, with results in file order whatever the number of threads.
    fn work(&mut self) {
        self.group_bytes = 0;
        let group = std::mem::take(&mut self.group);
        let worker = Worker {
            config: self.config,
            tokenizer: self.tokenizer,
            mapping: &self.mapping,
            format: self.format,
            making: self.making.as_ref(),
            keep: self.keep.as_ref(),
        };
        let results: Vec<_> = group
            .into_par_iter()
            .map(|(place, body)| (place, worker.work(place, body)))
            .collect();
        for (place, result) in results {
            self.counts.records += 1;
            match result {
                Ok(outcome) => {
                    self.counts.add(&outcome.counts);
                    self.emptied.extend(vec![place; outcome.counts.emptied]);
                    let first = self.samples.len();
                    self.rows.extend(outcome.kept.map(|Kept { fields, by }| Row {
                        place,
                        fields,
                        by,
                        samples: first..first + outcome.samples.len(),
                    }));
                    self.places.extend(outcome.samples.iter().map(|_| place));
                    self.samples.extend(outcome.samples);
                    self.made.extend(outcome.made);
                }
                Err(flaw) if self.flaws.len() < MAX_FLAWS => self.flaws.push((place, flaw)),
                Err(_) => {}
            }
        }
    }

    fn finish(self) -> Result<Dataset> {
        if !self.flaws.is_empty() {
            return Err(Error::Records {
                more: self.flaws.len() == MAX_FLAWS,
                files: self.files,
                flaws: self.flaws,
            });
        }
        let empty = |what| Error::File {
            file: Files::from(self.files.iter().map(Into::into).collect::<Vec<_>>()).to_string(),
            what,
        };
        let Some(format) = self.format else {
            return Err(empty("holds no records".into()));
        };
        if self.samples.is_empty() {
            return Err(empty(self.counts.why_empty(self.config.max_length)));
        }
        let statistics = Statistics::measure(&self.samples, self.counts, self.tokenizer);
        Ok(Dataset {
            samples: self.samples,
            files: self.files,
            places: self.places,
            emptied: self.emptied,
            format,
            statistics,
        })
    }
}

/// What the threads share.
struct Worker<'a> {
    config: &'a DataConfig,
    tokenizer: &'a Tokenizer,
    mapping: &'a Mapping,
    format: Option<FormatName>,
    making: Option<&'a Making>,
    keep: Option<&'a Keep>,
}

#[derive(Default)]
struct Outcome {
    samples: Vec<Sample>,
    counts: Counts,
    made: Vec<Made>,
    kept: Option<Kept>,
}

impl Worker<'_> {
    fn work(&self, place: Place, body: Body) -> Result<Outcome, Flaw> {
        let Some(format) = self.format.map(|f| f.format()) else {
            return Ok(Outcome::default());
        };
        let fields = body.fields()?;
        if self.mapping.is_empty() {
            disliked(format, &fields)?;
        }
        let by = self.keep.map(|keep| keep.value(&fields)).transpose()?.flatten();
        let fields = self.mapping.apply(fields)?;
        let mut outcome = Outcome::default();
        if self.keep.is_some() {
            outcome.kept = Some(Kept {
                fields: format.own(&fields),
                by,
            });
        }
        let Some(making) = self.making else {
            self.take(format, fields, &mut outcome)?;
            return Ok(outcome);
        };
        if making.places.contains(&place) {
            for made in making.augmenter.copies(&making.files, place, &fields, &making.fields) {
                // A copy that has become unusable is left out: its record is there.
                if self.take(format, made.fields.clone(), &mut outcome).is_ok() {
                    outcome.made.push(made);
                }
            }
        }
        Ok(outcome)
    }

    fn take(&self, format: &dyn Format, fields: Fields, outcome: &mut Outcome) -> Result<(), Flaw> {
        for sample in self.samples(format, &Record(fields))? {
            self.fit(sample, outcome)?;
        }
        Ok(())
    }

    fn samples(&self, format: &dyn Format, record: &Record) -> Result<Vec<Sample>, Flaw> {
        let samples = format.samples(record, self.tokenizer)?;
        match samples.iter().all(Sample::teaches) {
            true => Ok(samples),
            false => Err(Flaw::NothingToLearn("the loss would cover no token")),
        }
    }

    /// Applies the over-length policy.
    fn fit(&self, mut sample: Sample, outcome: &mut Outcome) -> Result<(), Flaw> {
        let max_length = self.config.max_length;
        let tokens = sample.width();
        if tokens <= max_length {
            outcome.samples.push(sample);
            return Ok(());
        }
        match self.config.overlong {
            Overlong::Error => return Err(Flaw::TooLong { tokens, max_length }),
            Overlong::Drop => outcome.counts.dropped += 1,
            Overlong::Split => outcome
                .samples
                .extend(sample.windows(max_length).into_iter().filter(|w| w.target_tokens() > 0)),
            Overlong::Truncate => {
                outcome.counts.truncated_tokens += sample.truncate(max_length);
                match sample.teaches() && !sample.is_undecided() {
                    false => outcome.counts.emptied += 1,
                    true => {
                        outcome.counts.truncated += 1;
                        outcome.samples.push(sample);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
