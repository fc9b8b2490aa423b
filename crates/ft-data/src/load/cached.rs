//! Samples that lie in the token cache, or come to lie there.

use std::path::{Path, PathBuf};

use super::{Dataset, Loader};
use crate::cache::{Cache, Entry, Writer};
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
    let mut loader = Loader::new(config, &tokenizer, None)?;
    loader.writer = Some(Writer::new(entry, damage));
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
