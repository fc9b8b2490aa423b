//! Samples that lie in the token cache, or come to lie there.

use std::path::{Path, PathBuf};

use super::{Dataset, Loader};
use crate::cache::{Begun, Cache, Entry, Progress, Writer};
use crate::config::DataConfig;
use crate::error::{Error, Result};
use crate::sources::Source;
use crate::tokenizer::Tokenizer;

/// Reads the samples from the token cache, or puts them there.
pub(super) fn load_cached(
    sources: &[Source],
    files: &[PathBuf],
    config: &DataConfig,
    tokenizer: &Tokenizer,
    folder: &Path,
) -> Result<Dataset> {
    config.check()?;
    let tokenizer = config.tokenizer(tokenizer.clone())?;
    let entry = Entry::of(folder, files, config, &tokenizer)?;
    let damage = match entry.read(files) {
        Some(Ok(data)) => return Ok(data),
        Some(Err(why)) => Some(why),
        None => None,
    };
    let begun = if damage.is_none() { entry.begun() } else { None };
    let mut loader = Loader::new(config, &tokenizer, None)?;
    loader.writer = Some(Writer::new(entry, damage));
    if let Some(begun) = begun {
        loader.go_on(begun)?;
    }
    loader.read(sources)?;
    loader.finish()
}

/// A cache that nobody asked for may fail: its samples are held in memory then.
pub(super) fn unwritten(config: &DataConfig, folder: &Path, why: &str) -> Result<()> {
    if config.cache == Cache::Auto {
        return Ok(());
    }
    Err(Error::Config {
        key: "cache".into(),
        what: format!(
            "{} cannot be written: {why}; make room, name another folder, or set data.cache = false to hold the samples in memory",
            folder.display()
        ),
    })
}

impl Loader<'_> {
    /// Goes on behind what an earlier start came to.
    fn go_on(&mut self, begun: Begun) -> Result<()> {
        let Progress {
            format,
            shards,
            counts,
            cut,
        } = begun.progress;
        self.check(format)?;
        self.known = counts.records;
        (self.format, self.counts, self.cut) = (Some(format), counts, cut);
        (self.samples, self.places) = (begun.samples, begun.places);
        if let Some(writer) = &mut self.writer {
            writer.begin_behind(shards, self.samples.len());
        }
        Ok(())
    }

    /// Puts the samples of a record into the token cache, where there is one.
    pub(super) fn store(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        let sealed = writer.store(&mut self.samples, &self.places);
        // What is wrong with a record would not be told again if it were passed over.
        if let (Some(shards), Some(format), true) = (sealed, self.format, self.flaws.is_empty()) {
            writer.note(&Progress {
                format,
                shards,
                counts: self.counts,
                cut: self.cut.clone(),
            });
        }
    }
}
