//! From a file to samples: read in order, worked on in parallel, put back in order.

mod augmented;
mod cached;
mod records;
mod worker;

use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::augment::Made;
use crate::cache::{self, Cached, How, Writer};
use crate::config::DataConfig;
use crate::error::{Error, Flaw, MAX_FLAWS, Place, Result};
use crate::formats::{FormatName, made, near_miss};
use crate::map::Mapping;
use crate::sample::Sample;
use crate::sources::{self, Body, Files, Raw, Role, Source};
use crate::statistics::{Counts, Statistics};
use crate::tokenizer::Tokenizer;
use augmented::Making;
pub use augmented::{Augmented, load_augmented};
use cached::{load_cached, unwritten};
pub use records::{Duplicates, Records, Row, load_records};
use records::{Keep, Kept};
use worker::Worker;

/// The samples of files, in their order, with where they came from and what was counted on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The samples.
    pub samples: Vec<Sample>,
    /// The files that were read.
    pub files: Vec<String>,
    /// Where each sample's record stands.
    pub places: Vec<Place>,
    /// Where the records of samples stand that were cut or left out, and which of both.
    pub cut: Vec<(Place, Fate)>,
    /// How they were read.
    pub format: FormatName,
    /// Tokens, lengths, and what the over-length policy did.
    pub statistics: Statistics,
    /// What the token cache had to do with it.
    pub cached: Option<Cached>,
}

impl Dataset {
    /// What a person should know before training on this, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let cached = self.cached.as_ref().and_then(Cached::warning);
        self.statistics.warnings().into_iter().chain(cached).collect()
    }
}

/// What happened to a sample longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It was cut.
    Truncated,
    /// The cut left nothing to learn, and it was left out.
    Emptied,
    /// It was left out as too long.
    Dropped,
}

/// Reads and tokenizes the examples of `files` as `config` says (its `train` and `valid` are not looked at).
///
/// # Errors
/// Files that cannot be read, hold nothing, or have unusable records: all of them (up to [`MAX_FLAWS`]) with their lines.
pub fn load_samples(files: impl Into<Files>, config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    load_files(files.into(), config, tokenizer, None)
}

/// The same for a student whose teacher has a tokenizer of its own: each sample also holds the record as the teacher reads it, by its own
/// chat template, in at most `max_length` of its tokens, and which tokens of both stand for the same text.
///
/// # Errors
/// As [`load_samples`]; records that the teacher's side makes nothing of, or another number of samples.
pub fn load_taught(
    files: impl Into<Files>,
    config: &DataConfig,
    tokenizer: &Tokenizer,
    teacher: &Tokenizer,
) -> Result<Dataset> {
    load_files(files.into(), config, tokenizer, Some(teacher))
}

fn load_files(
    files: Files,
    config: &DataConfig,
    tokenizer: &Tokenizer,
    teacher: Option<&Tokenizer>,
) -> Result<Dataset> {
    let files = files.resolve(config.split.as_deref(), Role::Train)?;
    let sources: Vec<Source> = files.paths().iter().map(|path| Source::File(path)).collect();
    match cache::folder(files.paths(), config)? {
        Some(folder) if teacher.is_none() => load_cached(&sources, files.paths(), config, tokenizer, folder),
        _ => load(&sources, config, tokenizer, teacher),
    }
}

/// The same for a [`Source`], which may be built into the program.
///
/// # Errors
/// As [`load_samples`].
pub fn load_source(source: Source, config: &DataConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    load(&[source], config, tokenizer, None)
}

fn load(
    sources: &[Source],
    config: &DataConfig,
    tokenizer: &Tokenizer,
    teacher: Option<&Tokenizer>,
) -> Result<Dataset> {
    config.check()?;
    let tokenizer = config.tokenizer(tokenizer.clone())?;
    let teacher = config.teacher(teacher);
    let mut loader = Loader::new(config, &tokenizer, teacher.as_ref())?;
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
            Some(path) => match std::fs::read_to_string(path) {
                Ok(source) => tokenizer.with_chat_template(&source)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    tokenizer.with_named_template(&path.to_string_lossy())?
                }
                Err(source) => {
                    return Err(Error::Io {
                        path: path.clone(),
                        source,
                    });
                }
            },
            None => tokenizer,
        };
        Ok(tokenizer.with_chat_template_kwargs(&self.chat_template_kwargs))
    }

    /// A teacher's tokenizer with the template variables that this section sets.
    fn teacher(&self, tokenizer: Option<&Tokenizer>) -> Option<Tokenizer> {
        tokenizer.map(|teacher| teacher.clone().with_chat_template_kwargs(&self.chat_template_kwargs))
    }
}

/// Records are worked on in groups of this many, or of [`GROUP_BYTES`].
const GROUP: usize = 4096;
const GROUP_BYTES: usize = 4 << 20;

struct Loader<'a> {
    config: &'a DataConfig,
    tokenizer: &'a Tokenizer,
    teacher: Option<&'a Tokenizer>,
    mapping: Mapping,
    format: Option<FormatName>,
    files: Vec<String>,
    group: Vec<(Place, Body)>,
    group_bytes: usize,
    taken: usize,
    /// Records that are passed over: an earlier start made their samples.
    known: usize,
    samples: Vec<Sample>,
    places: Vec<Place>,
    counts: Counts,
    flaws: Vec<(Place, Flaw)>,
    cut: Vec<(Place, Fate)>,
    making: Option<Making>,
    made: Vec<Made>,
    keep: Option<Keep>,
    rows: Vec<Row>,
    writer: Option<Writer>,
}

impl<'a> Loader<'a> {
    fn new(config: &'a DataConfig, tokenizer: &'a Tokenizer, teacher: Option<&'a Tokenizer>) -> Result<Loader<'a>> {
        let loader = Loader {
            config,
            tokenizer,
            teacher,
            mapping: Mapping::parse(config)?,
            format: config.format,
            files: vec![],
            group: vec![],
            group_bytes: 0,
            taken: 0,
            known: 0,
            samples: vec![],
            places: vec![],
            counts: Counts::default(),
            flaws: vec![],
            cut: vec![],
            making: None,
            made: vec![],
            keep: None,
            rows: vec![],
            writer: None,
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
        self.written()
    }

    /// Whether the token cache can be written, or need not be.
    fn written(&self) -> Result<()> {
        match &self.writer {
            Some(writer) => writer
                .failure()
                .map_or(Ok(()), |why| unwritten(self.config, writer.folder(), why)),
            None => Ok(()),
        }
    }

    fn take(&mut self, Raw { at, mut body }: Raw) -> Result<()> {
        if self.taken < self.known {
            self.taken += 1;
            return Ok(());
        }
        if self.format.is_none() {
            body = self.detect_format(body)?;
        }
        let file = u32::try_from(self.files.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.taken += 1;
        self.group_bytes += body.weight();
        self.group.push((Place { file, at }, body));
        if self.group.len() >= GROUP || self.group_bytes >= GROUP_BYTES {
            self.work();
            self.written()?;
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
        let Some(format) = FormatName::detect(&names, self.config.labels.is_some()) else {
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
        Ok(Body::Fields(fields))
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
                    self.cut.extend(outcome.counts.fates().map(|fate| (place, fate)));
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
                    self.store();
                }
                Err(flaw) if self.flaws.len() < MAX_FLAWS => self.flaws.push((place, flaw)),
                Err(_) => {}
            }
        }
    }

    fn finish(mut self) -> Result<Dataset> {
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
        let writer = self.writer.take();
        let mut data = Dataset {
            samples: self.samples,
            files: self.files,
            places: self.places,
            cut: self.cut,
            format,
            statistics,
            cached: None,
        };
        if let Some(writer) = writer {
            let cached = writer.finish(&mut data);
            if cached.how == How::Failed {
                unwritten(self.config, &cached.folder, cached.why.as_deref().unwrap_or_default())?;
            }
            data.cached = Some(cached);
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests;
