//! Samples become shards while further ones are made.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ABOUT, About, Cached, Entry, How, Progress, shard, shard_name, with_checksum};
use crate::error::Place;
use crate::load::Dataset;
use crate::sample::Sample;

/// Words of a shard: 8 MiB, which a process that makes or reads one holds of it at most, unless a single sample takes more.
const SHARD: usize = 2 << 20;

/// An entry that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    entry: Entry,
    /// What was wrong with what was there.
    damage: Option<String>,
    /// Samples that are in shards.
    stored: usize,
    /// Samples that were looked at, and the words of those that are in no shard yet.
    seen: usize,
    words: usize,
    shards: usize,
    /// Whether some of the shards were there.
    begun: bool,
    failure: Option<String>,
}

impl Writer {
    /// Writes `entry`, in the place of what was damaged if something was.
    pub fn new(entry: Entry, damage: Option<String>) -> Writer {
        let failure = std::fs::create_dir_all(&entry.folder).err().map(|e| e.to_string());
        Writer {
            entry,
            damage,
            stored: 0,
            seen: 0,
            words: 0,
            shards: 0,
            begun: false,
            failure,
        }
    }

    /// Goes on behind so many shards, which hold so many samples.
    pub fn begin_behind(&mut self, shards: usize, samples: usize) {
        (self.shards, self.stored, self.seen, self.begun) = (shards, samples, samples, true);
    }

    /// Why nothing is written any more.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The folder of the entry.
    pub fn folder(&self) -> &Path {
        &self.entry.folder
    }

    /// Looks at the samples of a record, which came since the last time: where they fill a shard it is written, and what is in it put in
    /// their place. The number of shards, if this was so.
    pub fn store(&mut self, samples: &mut [Sample], places: &[Place]) -> Option<usize> {
        for sample in samples.iter().skip(self.seen) {
            if self.failure.is_none() && !shard::holds(sample) {
                self.failure = Some("a sample is too long for a shard".into());
            }
            self.words += shard::size(sample);
        }
        self.seen = samples.len();
        if self.failure.is_some() || self.words < SHARD {
            return None;
        }
        self.seal(samples, places);
        self.failure.is_none().then_some(self.shards)
    }

    /// Notes how far the entry is.
    pub fn note(&self, progress: &Progress) {
        self.entry.note(progress);
    }

    fn seal(&mut self, samples: &mut [Sample], places: &[Place]) {
        let range = self.stored..self.seen;
        let (name, key) = (shard_name(self.shards), self.entry.key);
        let path = self.entry.folder.join(&name);
        let written = place(&path, |draft| {
            shard::write(draft, key, &samples[range.clone()], &places[range.clone()])
        });
        let read = written
            .map_err(|e| e.to_string())
            .and_then(|()| shard::Shard::open(&path, key));
        match read {
            Ok((stored, _)) if stored.len() == range.len() => {
                samples[range].iter_mut().zip(stored).for_each(|(old, new)| *old = new);
                (self.stored, self.words) = (self.seen, 0);
                self.shards += 1;
            }
            Ok(_) => self.failure = Some(format!("{name}: it does not hold what was written")),
            Err(why) => self.failure = Some(format!("{name}: {why}")),
        }
    }

    /// Writes the rest and what is known of the set.
    pub fn finish(mut self, data: &mut Dataset) -> Cached {
        if self.failure.is_none() && self.stored < self.seen {
            self.seal(&mut data.samples, &data.places);
        }
        data.samples.shrink_to_fit();
        data.places.shrink_to_fit();
        if self.failure.is_none() {
            let about = About {
                format: data.format,
                files: data.files.clone(),
                shards: self.shards,
                statistics: data.statistics.clone(),
                cut: data.cut.clone(),
            };
            let path = self.entry.folder.join(ABOUT);
            let text = with_checksum(&about).map_err(std::io::Error::other);
            let written = text.and_then(|text| place(&path, |draft| std::fs::write(draft, &text)));
            self.failure = written.err().map(|e| format!("{ABOUT}: {e}"));
        }
        if self.failure.is_none() {
            self.entry.forget_progress();
        }
        let (how, why) = match (self.failure, self.damage) {
            (Some(why), _) => (How::Failed, Some(why)),
            (None, Some(why)) => (How::Rebuilt, Some(why)),
            (None, None) if self.begun => (How::Continued, None),
            (None, None) => (How::Written, None),
        };
        Cached {
            folder: self.entry.folder,
            how,
            why,
        }
    }
}

/// Writes a file under a name of this process's own, and gives it its name once it is whole.
pub(super) fn place(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    static DRAFTS: AtomicUsize = AtomicUsize::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("{}-{number}.draft", std::process::id()));
    let written = write(&draft).and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}
