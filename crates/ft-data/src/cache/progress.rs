//! How far an entry has come that is not whole yet: the next start goes on behind its shards.
//!
//! `progress.json` is written behind every shard but the last, and taken away once the entry is whole. It counts records, so that what stands
//! before them in the files is passed over, and holds what was counted of them.

use serde::{Deserialize, Serialize};

use super::{Entry, checked, with_checksum};
use crate::error::Place;
use crate::formats::FormatName;
use crate::load::Fate;
use crate::sample::Sample;
use crate::statistics::Counts;

const FILE: &str = "progress.json";

/// What the shards of an entry hold.
#[derive(Serialize, Deserialize)]
pub(crate) struct Progress {
    pub format: FormatName,
    pub shards: usize,
    /// Of all records that are in the shards, or gave no samples.
    pub counts: Counts,
    pub cut: Vec<(Place, Fate)>,
}

/// An entry that somebody began.
pub(crate) struct Begun {
    pub progress: Progress,
    pub samples: Vec<Sample>,
    pub places: Vec<Place>,
}

impl Entry {
    /// What is there of an entry without `set.json`; none where it is damaged, for then all of it is made again.
    pub fn begun(&self) -> Option<Begun> {
        let text = std::fs::read_to_string(self.folder.join(FILE)).ok()?;
        let progress: Progress = checked(&text)?;
        let (mut samples, mut places) = (Vec::new(), Vec::new());
        for number in 0..progress.shards {
            let (mut own, mut at) = self.shard(number).ok()?;
            samples.append(&mut own);
            places.append(&mut at);
        }
        Some(Begun {
            progress,
            samples,
            places,
        })
    }

    /// Notes how far it is. Who cannot may have to begin anew one day, and nothing else.
    pub fn note(&self, progress: &Progress) {
        if let Ok(text) = with_checksum(progress) {
            let _ = super::writer::place(&self.folder.join(FILE), |draft| std::fs::write(draft, &text));
        }
    }

    /// The entry is whole.
    pub fn forget_progress(&self) {
        let _ = std::fs::remove_file(self.folder.join(FILE));
    }
}
