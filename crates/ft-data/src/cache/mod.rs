//! The token cache: what tokenizing a set came to, on the disk, so that a second start reads it and no set has to fit into memory.
//!
//! ```text
//! FOLDER/KEY/     KEY: files by content, tokenizer, template, and the settings that shape samples
//!   00000.shard   samples in the order of the files, mapped into memory (`shard`)
//!   ...
//!   progress.json what the shards hold, while there are more to come (`progress`)
//!   set.json      statistics and the number of shards, with a checksum: written last, so that what has one is whole
//! ```
//!
//! Every file is written under another name and renamed, and two programs that write the same entry write the same bytes. All checksums
//! are compared when an entry is opened; one that is damaged is written again. Samples that a teacher with another tokenizer reads as
//! well are not cached.

mod key;
mod pass;
mod progress;
mod setting;
mod shard;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::DataConfig;
use crate::error::{Error, Place, Result};
use crate::formats::FormatName;
use crate::load::{Dataset, Fate};
use crate::sample::Sample;
use crate::statistics::Statistics;
use crate::tokenizer::Tokenizer;
use key::Key;

pub use pass::{let_go, passing};
pub(crate) use progress::{Begun, Progress};
pub use setting::{Cache, LARGE};
pub(crate) use shard::Shard;
pub(crate) use writer::Writer;

/// What was done with the token cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cached {
    /// The folder of the set's tokens.
    pub folder: PathBuf,
    /// What was done with it.
    pub how: How,
    /// What was wrong with it, or stood in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What was done with a set's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// They were there.
    Read,
    /// They were made and written.
    Written,
    /// Some were there from a start that was broken off; the rest was made and written.
    Continued,
    /// What was there was damaged; they were made and written again.
    Rebuilt,
    /// They could not be written; they, or the rest of them, are in memory.
    Failed,
}

impl Cached {
    /// What a person should know of it.
    pub fn warning(&self) -> Option<String> {
        let (folder, why) = (self.folder.display(), self.why.as_deref()?);
        Some(match self.how {
            How::Failed => format!(
                "the token cache {folder} cannot be written ({why}), so the samples are held in memory; data.cache names another folder"
            ),
            _ => format!("the token cache {folder} was damaged ({why}) and has been written again"),
        })
    }
}

impl std::fmt::Display for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let folder = self.folder.display();
        match self.how {
            How::Read => write!(f, "read from {folder}"),
            How::Written => write!(f, "written to {folder}"),
            How::Continued => write!(f, "begun before, and written to {folder}"),
            How::Rebuilt => write!(f, "damaged, and written again to {folder}"),
            How::Failed => write!(f, "not written to {folder}"),
        }
    }
}

/// What is known of a set beside its samples.
#[derive(Serialize, Deserialize)]
struct About {
    format: FormatName,
    /// The files, for people: what they held is in the key.
    files: Vec<String>,
    shards: usize,
    statistics: Statistics,
    cut: Vec<(Place, Fate)>,
}

/// Where the tokens of a set are, or will be.
#[derive(Debug)]
pub(crate) struct Entry {
    folder: PathBuf,
    key: Key,
}

const ABOUT: &str = "set.json";

/// The folder that caches these files, where they are to be cached.
///
/// # Errors
/// `data.cache = true` where nobody said what the cache folder is.
pub(crate) fn folder<'c>(files: &[PathBuf], config: &'c DataConfig) -> Result<Option<&'c Path>> {
    let size = |path: &PathBuf| path.metadata().map_or(0, |data| data.len());
    match (&config.cache, config.cache_folder.as_deref()) {
        (Cache::Off, _) => Ok(None),
        (Cache::Folder(folder), _) => Ok(Some(folder)),
        (Cache::Auto, folder) => Ok(folder.filter(|_| files.iter().map(size).sum::<u64>() >= LARGE)),
        (Cache::On, Some(folder)) => Ok(Some(folder)),
        (Cache::On, None) => Err(Error::Config {
            key: "cache".into(),
            what: "true stands for the user's cache folder, which is not known here; name a folder".into(),
        }),
    }
}

impl Entry {
    /// The entry of these files in a cache folder.
    pub fn of(cache: &Path, files: &[PathBuf], config: &DataConfig, tokenizer: &Tokenizer) -> Result<Entry> {
        let key = Key::of(files, config, tokenizer)?;
        Ok(Entry {
            folder: cache.join(key.name()),
            key,
        })
    }

    /// The set, where it is there; what is wrong with it where it is not whole.
    pub fn read(&self, files: &[PathBuf]) -> Option<Result<Dataset, String>> {
        let text = match std::fs::read_to_string(self.folder.join(ABOUT)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            text => text.map_err(|e| e.to_string()),
        };
        let about = text.and_then(|text| checked(&text).ok_or_else(|| format!("{ABOUT}: it is not what was written")));
        Some(about.and_then(|about| self.samples(about, files)))
    }

    fn samples(&self, about: About, files: &[PathBuf]) -> Result<Dataset, String> {
        /// Shards that are read at a time.
        const GROUP: usize = 64;
        let (mut samples, mut places) = (Vec::new(), Vec::new());
        let count = about.statistics.samples;
        let reserved = samples
            .try_reserve_exact(count)
            .and_then(|()| places.try_reserve_exact(count));
        reserved.map_err(|_| format!("{ABOUT}: it counts more samples than memory has room for"))?;
        for first in (0..about.shards).step_by(GROUP) {
            let group = first..about.shards.min(first + GROUP);
            let read: Result<Vec<_>, String> = group.into_par_iter().map(|number| self.shard(number)).collect();
            for (mut own, mut at) in read? {
                samples.append(&mut own);
                places.append(&mut at);
            }
        }
        if samples.len() != about.statistics.samples {
            return Err(format!("{ABOUT}: it counts other samples than the shards hold"));
        }
        Ok(Dataset {
            samples,
            files: files.iter().map(|path| path.display().to_string()).collect(),
            places,
            cut: about.cut,
            format: about.format,
            statistics: about.statistics,
            cached: Some(Cached {
                folder: self.folder.clone(),
                how: How::Read,
                why: None,
            }),
        })
    }

    fn shard(&self, number: usize) -> Result<(Vec<Sample>, Vec<Place>), String> {
        let name = shard_name(number);
        Shard::open(&self.folder.join(&name), self.key).map_err(|why| format!("{name}: {why}"))
    }
}

fn shard_name(number: usize) -> String {
    format!("{number:05}.shard")
}

/// The text of a file such as `set.json`.
fn with_checksum(about: &impl Serialize) -> serde_json::Result<String> {
    let about = serde_json::to_value(about)?;
    let crc32 = crc32fast::hash(about.to_string().as_bytes());
    Ok(serde_json::json!({ "crc32": crc32, "about": about }).to_string() + "\n")
}

/// What such a text says; none where it is another text than was written.
fn checked<T: DeserializeOwned>(text: &str) -> Option<T> {
    let value: Value = serde_json::from_str(text).ok()?;
    let about = value.get("about")?;
    let crc32 = crc32fast::hash(about.to_string().as_bytes());
    (value.get("crc32")?.as_u64()? == u64::from(crc32)).then(|| serde_json::from_value(about.clone()).ok())?
}
