//! From a file to samples: read in order, worked on in parallel, put back in order.

use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;

use crate::align::Taught;
use crate::config::{DataConfig, Overlong};
use crate::error::{Error, Flaw, MAX_FLAWS, Place, Result};
use crate::formats::{Format, FormatName, Record, disliked, made, near_miss};
use crate::map::Mapping;
use crate::sample::Sample;
use crate::sources::{self, Body, Raw, Source};
use crate::statistics::{Counts, Statistics};
use crate::tokenizer::Tokenizer;

/// The samples of a file, in its order, with where they came from and what was counted on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The samples.
    pub samples: Vec<Sample>,
    /// Where each sample's record stands in the file.
    pub places: Vec<Place>,
    /// How they were read.
    pub format: FormatName,
    /// Tokens, lengths, and what the over-length policy did.
    pub statistics: Statistics,
}

/// Reads and tokenizes the examples of `path` as `config` says (its `train` and `valid` are not looked at).
///
/// # Errors
/// A file that cannot be read, holds nothing, or has unusable records: all of them (up to [`MAX_FLAWS`]) with their lines.
pub fn load_samples(path: &Path, config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    load(Source::File(path), config, tokenizer, None)
}

/// The same for a student whose teacher has a tokenizer of its own: each sample also holds the record as the teacher reads it, by its own
/// chat template, in at most `max_length` of its tokens, and which tokens of both stand for the same text.
///
/// # Errors
/// As [`load_samples`]; records that the teacher's side makes nothing of, or another number of samples.
pub fn load_taught(path: &Path, config: &DataConfig, tokenizer: &Tokenizer, teacher: &Tokenizer) -> Result<Dataset> {
    load(Source::File(path), config, tokenizer, Some(teacher))
}

/// The same for a [`Source`], which may be built into the program.
///
/// # Errors
/// As [`load_samples`].
pub fn load_source(source: Source, config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    load(source, config, tokenizer, None)
}

fn load(source: Source, config: &DataConfig, tokenizer: &Tokenizer, teacher: Option<&Tokenizer>) -> Result<Dataset> {
    config.check()?;
    let tokenizer = config.tokenizer(tokenizer.clone())?;
    let variables = &config.chat_template_kwargs;
    let teacher = teacher.map(|teacher| teacher.clone().with_chat_template_kwargs(variables));
    let mut loader = Loader::new(config, &tokenizer, teacher.as_ref())?;
    let mut outcome = Ok(());
    sources::read(source, &config.separator, &mut |raw| {
        outcome = loader.take(raw);
        let go_on = outcome.is_ok() && loader.flaws.len() < MAX_FLAWS;
        if go_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    outcome?;
    loader.work();
    loader.finish(source)
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
    teacher: Option<&'a Tokenizer>,
    mapping: Mapping,
    format: Option<FormatName>,
    group: Vec<Raw>,
    group_bytes: usize,
    samples: Vec<Sample>,
    places: Vec<Place>,
    counts: Counts,
    flaws: Vec<(Place, Flaw)>,
}

impl<'a> Loader<'a> {
    fn new(config: &'a DataConfig, tokenizer: &'a Tokenizer, teacher: Option<&'a Tokenizer>) -> Result<Loader<'a>> {
        let loader = Loader {
            config,
            tokenizer,
            teacher,
            mapping: Mapping::parse(config)?,
            format: config.format,
            group: vec![],
            group_bytes: 0,
            samples: vec![],
            places: vec![],
            counts: Counts::default(),
            flaws: vec![],
        };
        config.format.map_or(Ok(()), |format| loader.check(format))?;
        Ok(loader)
    }

    /// Whether both tokenizers can make samples of the format.
    fn check(&self, format: FormatName) -> Result<()> {
        format.format().check(self.tokenizer)?;
        let theirs = self.teacher.map_or(Ok(()), |teacher| format.format().check(teacher));
        theirs.map_err(|e| Error::Teacher(Box::new(e)))
    }

    fn take(&mut self, mut raw: Raw) -> Result<()> {
        if self.format.is_none() {
            raw = self.detect_format(raw)?;
        }
        self.group_bytes += raw.body.weight();
        self.group.push(raw);
        if self.group.len() >= GROUP || self.group_bytes >= GROUP_BYTES {
            self.work();
        }
        Ok(())
    }

    /// The first record with columns says what the format is.
    fn detect_format(&mut self, raw: Raw) -> Result<Raw> {
        let Raw { place, body } = raw;
        let fields = match body.fields() {
            Ok(fields) => fields,
            Err(flaw) => {
                return Ok(Raw {
                    place,
                    body: Body::Flawed(flaw),
                });
            }
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
        self.check(format)?;
        self.format = Some(format);
        Ok(Raw {
            place,
            body: Body::Fields(fields),
        })
    }

    /// Turns the waiting records into samples: in parallel, with results in file order whatever the number of threads.
    fn work(&mut self) {
        self.group_bytes = 0;
        let group = std::mem::take(&mut self.group);
        let worker = Worker {
            config: self.config,
            tokenizer: self.tokenizer,
            teacher: self.teacher,
            mapping: &self.mapping,
            format: self.format,
        };
        let results: Vec<_> = group
            .into_par_iter()
            .map(|raw| (raw.place, worker.work(raw.body)))
            .collect();
        for (place, result) in results {
            self.counts.records += 1;
            match result {
                Ok(outcome) => {
                    self.counts.add(&outcome.counts);
                    self.places.extend(outcome.samples.iter().map(|_| place));
                    self.samples.extend(outcome.samples);
                }
                Err(flaw) if self.flaws.len() < MAX_FLAWS => self.flaws.push((place, flaw)),
                Err(_) => {}
            }
        }
    }

    fn finish(self, source: Source) -> Result<Dataset> {
        let file = source.name();
        if !self.flaws.is_empty() {
            let more = self.flaws.len() == MAX_FLAWS;
            return Err(Error::Records {
                file,
                flaws: self.flaws,
                more,
            });
        }
        let Some(format) = self.format else {
            return Err(Error::File {
                file,
                what: "holds no records".into(),
            });
        };
        if self.samples.is_empty() {
            return Err(Error::File {
                file,
                what: self.counts.why_empty(self.config.max_length),
            });
        }
        let statistics = Statistics::measure(&self.samples, self.counts, self.tokenizer);
        Ok(Dataset {
            samples: self.samples,
            places: self.places,
            format,
            statistics,
        })
    }
}

/// What the threads share.
struct Worker<'a> {
    config: &'a DataConfig,
    tokenizer: &'a Tokenizer,
    teacher: Option<&'a Tokenizer>,
    mapping: &'a Mapping,
    format: Option<FormatName>,
}

#[derive(Default)]
struct Outcome {
    samples: Vec<Sample>,
    counts: Counts,
}

impl Worker<'_> {
    fn work(&self, body: Body) -> Result<Outcome, Flaw> {
        let Some(format) = self.format.map(|f| f.format()) else {
            return Ok(Outcome::default());
        };
        let fields = body.fields()?;
        if self.mapping.is_empty() {
            disliked(format, &fields)?;
        }
        let record = Record(self.mapping.apply(fields)?);
        let mut outcome = Outcome::default();
        for sample in self.samples(format, &record)? {
            self.fit(sample, &mut outcome)?;
        }
        if let Some(teacher) = self.teacher {
            let tokenizers = [self.tokenizer, teacher];
            let samples = outcome.samples.iter_mut();
            samples.for_each(|sample| sample.align(tokenizers, self.config.max_length));
        }
        Ok(outcome)
    }

    fn samples(&self, format: &dyn Format, record: &Record) -> Result<Vec<Sample>, Flaw> {
        let samples = format.samples(record, self.tokenizer)?;
        if !samples.iter().all(Sample::teaches) {
            return Err(Flaw::NothingToLearn("the loss would cover no token"));
        }
        match self.teacher {
            Some(teacher) => taught(samples, format.samples(record, teacher)),
            None => Ok(samples),
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

/// Each sample with the teacher's.
fn taught(samples: Vec<Sample>, theirs: Result<Vec<Sample>, Flaw>) -> Result<Vec<Sample>, Flaw> {
    let theirs = theirs.map_err(|flaw| Flaw::Teacher(Box::new(flaw)))?;
    if samples.len() != theirs.len() {
        return Err(Flaw::TeacherSamples {
            own: samples.len(),
            theirs: theirs.len(),
        });
    }
    let both = samples.into_iter().zip(theirs);
    let teach = |(sample, theirs): (Sample, Sample)| {
        sample.taught(Taught {
            sample: theirs,
            spans: Vec::new(),
        })
    };
    Ok(both.map(teach).collect())
}

#[cfg(test)]
mod tests;
