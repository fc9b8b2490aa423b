//! A shard: some samples in one file, mapped into memory.
//!
//! ```text
//! words of 32 bits, as this machine orders their bytes
//! header    magic, version, CRC-32 of all words behind this one, key (4), samples, words in all
//! samples   RECORD words each: kind, place (file, line or record, number in 2), ids (start, length) and runs of target tokens
//!           (start, number), and the same of the rejected answer of a pair, or a label (start, number) and the second text's column
//! numbers   token ids; runs, as start and end; labels, as bits of f32
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::key::Key;
use crate::error::{At, Place};
use crate::sample::{Label, Preference, Sample};
use crate::stored::{Stored, Word};

const MAGIC: u32 = u32::from_le_bytes(*b"ftok");
/// Another arrangement of the words is another version.
const VERSION: u32 = 1;
const HEADER: usize = 9;
const RECORD: usize = 13;
/// From this word on the checksum counts.
const CHECKED: usize = 3;

/// What `kind` says.
const PLAIN: u32 = 0;
const PAIR: u32 = 1;
const BAD: u32 = 2;
const GOOD: u32 = 3;
/// The words of the rejected answer are then those of the label, and where the second text begins.
const LABELLED: u32 = 4;
const TAGGED: u32 = 5;

/// A shard that is mapped into memory.
pub struct Shard {
    map: Mmap,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "a shard of {} bytes", self.map.len())
    }
}

/// The samples of a shard and where their records stand.
pub(super) type Read = (Vec<Sample>, Vec<Place>);

impl Shard {
    /// All words; a whole number of them was checked when the shard was opened.
    pub(crate) fn words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.map)
    }

    /// Takes what was read of the shard out of the memory of this process; it is read again where it is looked at again.
    pub(crate) fn let_go(&self) {
        #[cfg(unix)]
        // SAFETY: the pages of a file that is mapped to be read hold nothing that is not in the file.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// Maps a shard, if it is whole and of `key`.
    pub(super) fn open(path: &Path, key: Key) -> Result<Read, String> {
        let shard = Arc::new(Shard::map(path).map_err(|e| e.to_string())?);
        if !shard.map.len().is_multiple_of(4) || shard.map.len() < 4 * HEADER {
            return Err("it is cut short".into());
        }
        let words = shard.words();
        match words[..HEADER] {
            [MAGIC, VERSION, ..] => {}
            _ => return Err("it is no shard of this version".into()),
        }
        if words[3..7] != key.words() {
            return Err("it is a shard of other data".into());
        }
        if words[8] as usize != words.len() {
            return Err("it is cut short".into());
        }
        if crc32fast::hash(bytemuck::cast_slice(&words[CHECKED..])) != words[2] {
            return Err("its checksum is another".into());
        }
        let read = shard.samples().ok_or("what it says of itself does not fit together")?;
        shard.let_go();
        Ok(read)
    }

    fn map(path: &Path) -> std::io::Result<Shard> {
        let file = File::open(path)?;
        // SAFETY: a shard is written under another name and never changed; who changes it all the same under a running program changes
        // what that learns from.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Shard { map })
    }

    /// None where a record points outside of the shard.
    fn samples(self: &Arc<Shard>) -> Option<Read> {
        let words = self.words();
        let count = words[7] as usize;
        let records = words.get(HEADER..HEADER.checked_add(count.checked_mul(RECORD)?)?)?;
        let (mut samples, mut places) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for record in records.chunks_exact(RECORD) {
            let sample = self.sequence(&record[5..9])?;
            samples.push(match record[0] {
                PLAIN => sample,
                PAIR => sample.over(self.sequence(&record[9..13])?),
                BAD => sample.rated(false),
                GOOD => sample.rated(true),
                LABELLED | TAGGED => {
                    let bits: Stored<u32> = self.part(record[9], record[10])?;
                    let label = match record[0] == LABELLED {
                        true => Label::Whole(bits),
                        false if bits.len() == sample.len() => Label::Tokens(bits),
                        false => return None,
                    };
                    let second = record[11] as usize;
                    Sample {
                        label,
                        second,
                        ..sample
                    }
                }
                _ => return None,
            });
            places.push(place(record)?);
        }
        Some((samples, places))
    }

    fn sequence(self: &Arc<Shard>, words: &[u32]) -> Option<Sample> {
        let ids: Stored<u32> = self.part(words[0], words[1])?;
        let learned: Stored<[u32; 2]> = self.part(words[2], words[3])?;
        let mut end = 1;
        for run in &learned {
            if run[0] < end || run[1] <= run[0] || run[1] as usize > ids.len() {
                return None;
            }
            end = run[1] + 1;
        }
        Some(Sample::of(ids, learned))
    }

    fn part<T: Word>(self: &Arc<Shard>, start: u32, len: u32) -> Option<Stored<T>> {
        let end = (len as usize).checked_mul(T::WORDS)?.checked_add(start as usize)?;
        (end <= self.words().len()).then(|| Stored::mapped(self, start, len))
    }
}

fn place(record: &[u32]) -> Option<Place> {
    let number = usize::try_from(u64::from(record[3]) | u64::from(record[4]) << 32).ok()?;
    let at = match record[2] {
        0 => At::Line(number),
        1 => At::Record(number),
        _ => return None,
    };
    Some(Place { file: record[1], at })
}

/// Words that a sample takes.
pub(super) fn size(sample: &Sample) -> usize {
    let numbers = sample.sequences().map(|s| s.ids.len() + 2 * s.learned.len());
    RECORD + numbers.sum::<usize>() + label(sample).len()
}

fn label(sample: &Sample) -> &[u32] {
    match &sample.label {
        Label::None => &[],
        Label::Whole(bits) | Label::Tokens(bits) => bits,
    }
}

/// Whether a shard can hold it: what a teacher with another tokenizer reads is in none.
pub(super) fn holds(sample: &Sample) -> bool {
    sample.sequences().all(|s| s.teacher.is_none()) && size(sample) < u32::MAX as usize / 2
}

/// Writes samples, which must be ones that a shard holds, in so many words altogether, and their places.
pub(super) fn write(path: &Path, key: Key, samples: &[Sample], places: &[Place]) -> std::io::Result<()> {
    let words: usize = HEADER + samples.iter().map(size).sum::<usize>();
    let total = u32::try_from(words).map_err(|_| std::io::Error::other("a shard takes 16 GiB at most"))?;
    let mut all = Vec::with_capacity(words);
    let [a, b, c, d] = key.words();
    all.extend([MAGIC, VERSION, 0, a, b, c, d, samples.len() as u32, total]);
    let mut numbers = all.len() + RECORD * samples.len();
    for (sample, place) in samples.iter().zip(places) {
        let kind = match &sample.preference {
            _ if sample.is_tagged() => TAGGED,
            _ if sample.is_labelled() => LABELLED,
            Preference::None => PLAIN,
            Preference::Over(_) => PAIR,
            Preference::Rated(false) => BAD,
            Preference::Rated(true) => GOOD,
        };
        let (at, number) = match place.at {
            At::Line(number) => (0, number as u64),
            At::Record(number) => (1, number as u64),
        };
        all.extend([kind, place.file, at, number as u32, (number >> 32) as u32]);
        let mut parts = [0; 8];
        for (sequence, part) in sample.sequences().zip(parts.chunks_exact_mut(4)) {
            let runs = numbers + sequence.ids.len();
            let of = [numbers, sequence.ids.len(), runs, sequence.learned.len()];
            part.copy_from_slice(&of.map(|number| number as u32));
            numbers = runs + 2 * sequence.learned.len();
        }
        if sample.is_labelled() {
            let of = [numbers, label(sample).len(), sample.second];
            parts[4..7].copy_from_slice(&of.map(|number| number as u32));
            numbers += label(sample).len();
        }
        all.extend(parts);
    }
    for sample in samples {
        for sequence in sample.sequences() {
            all.extend(&*sequence.ids);
            all.extend(sequence.learned.as_flattened());
        }
        all.extend(label(sample));
    }
    all[2] = crc32fast::hash(bytemuck::cast_slice(&all[CHECKED..]));
    File::create(path)?.write_all(bytemuck::cast_slice(&all))
}
