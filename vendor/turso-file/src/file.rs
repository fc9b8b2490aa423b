//! The file: changes one behind the other, each with its length and a checksum.
//!
//! ```text
//! "ft-store 1\n"   then of each change:  payload's bytes u32 | FNV-1a of the payload u64 | payload       little-endian
//! ```
//! Writers hold the file's lock while they read what others have added, decide, and append. What a process that was killed left
//! half-written, or what does not match its checksum, ends the file: the next writer cuts it off.
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

const HEAD: &[u8] = b"ft-store 1\n";
/// Before a payload.
const PREFIX: usize = 12;
/// The namespace of what CubeCL keeps beside its entries.
pub(crate) const META: &str = "\0meta";

/// By namespace and key: value and origin.
pub(crate) type Entries = BTreeMap<String, BTreeMap<Vec<u8>, (Vec<u8>, i64)>>;

/// One change.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    Set(String, Vec<u8>, Vec<u8>, i64),
    Remove(String, Vec<u8>),
    /// A whole namespace.
    Purge(String),
    /// All but [`META`].
    Clear,
}

impl Change {
    pub(crate) fn set(space: &str, key: Vec<u8>, value: Vec<u8>, origin: i64) -> Self {
        Self::Set(space.to_owned(), key, value, origin)
    }

    fn payload(&self) -> Vec<u8> {
        let (kind, parts): (u8, Vec<&[u8]>) = match self {
            Self::Set(space, key, value, origin) => {
                let kind = if *origin == 0 { 0 } else { 1 };
                (kind, vec![space.as_bytes(), key, value])
            }
            Self::Remove(space, key) => (2, vec![space.as_bytes(), key]),
            Self::Purge(space) => (3, vec![space.as_bytes()]),
            Self::Clear => (4, vec![]),
        };
        let mut payload = vec![kind];
        for part in parts {
            payload.extend((part.len() as u32).to_le_bytes());
            payload.extend(part);
        }
        payload
    }

    fn of(payload: &[u8]) -> Option<Self> {
        let (kind, mut rest) = payload.split_first()?;
        let mut part = || {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let (part, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = behind;
            Some(part.to_vec())
        };
        let mut space = || String::from_utf8(part()?).ok();
        Some(match kind {
            0 | 1 => {
                let space = space()?;
                Self::Set(space, part()?, part()?, i64::from(*kind))
            }
            2 => {
                let space = space()?;
                Self::Remove(space, part()?)
            }
            3 => Self::Purge(space()?),
            4 => Self::Clear,
            _ => return None,
        })
    }

    fn apply(self, entries: &mut Entries) {
        match self {
            Self::Set(space, key, value, origin) => {
                entries.entry(space).or_default().insert(key, (value, origin));
            }
            Self::Remove(space, key) => {
                entries.get_mut(&space).map(|all| all.remove(&key));
            }
            Self::Purge(space) => {
                entries.remove(&space);
            }
            Self::Clear => entries.retain(|space, _| space == META),
        }
    }
}

/// An open file, and what has been read of it.
#[derive(Debug)]
pub(crate) struct Store {
    file: File,
    read_only: bool,
    entries: Entries,
    /// Where the next change begins.
    end: u64,
}

impl Store {
    pub(crate) fn open(path: &Path, read_only: bool) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only).create(!read_only).truncate(false);
        let file = options.open(path).map_err(io("opening the store"))?;
        let mut store = Self {
            file,
            read_only,
            entries: Entries::new(),
            end: 0,
        };
        if !read_only {
            store.locked(|store| match store.length()? {
                0 => store.append(HEAD),
                _ => Ok(()),
            })?;
        }
        let mut head = [0; HEAD.len()];
        store.file.seek(SeekFrom::Start(0)).map_err(io("reading the store"))?;
        match store.file.read_exact(&mut head) {
            Ok(()) if head == HEAD => {}
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(io("reading the store")(error)),
            _ => return Err(Error::Error(format!("{} is no store of this program", path.display()))),
        }
        store.end = HEAD.len() as u64;
        store.refresh()?;
        Ok(store)
    }

    /// All that is kept, with what other processes have added.
    pub(crate) fn entries(&mut self) -> Result<&Entries> {
        self.refresh()?;
        Ok(&self.entries)
    }

    /// Appends what `decide` says of all that is kept. How many changes: one or none.
    pub(crate) fn change(&mut self, decide: impl FnOnce(&Entries) -> Option<Change>) -> Result<u64> {
        if self.read_only {
            return Err(Error::Error("the store is read only".into()));
        }
        self.locked(|store| {
            store.refresh()?;
            let Some(change) = decide(&store.entries) else {
                return Ok(0);
            };
            if store.length()? > store.end {
                store.file.set_len(store.end).map_err(io("mending the store"))?;
            }
            let payload = change.payload();
            let length = u32::try_from(payload.len()).map_err(|_| Error::Error("an entry of 4 GiB".into()))?;
            let mut record = length.to_le_bytes().to_vec();
            record.extend(checksum(&payload).to_le_bytes());
            record.extend(payload);
            store.append(&record)?;
            change.apply(&mut store.entries);
            Ok(1)
        })
    }

    fn locked<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.file.lock().map_err(io("locking the store"))?;
        let done = run(self);
        let _ = self.file.unlock();
        done
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(io("writing the store"))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(io("reading the store"))?.len())
    }

    /// Reads whole changes up to the first that is not.
    fn refresh(&mut self) -> Result<()> {
        let length = self.length()?;
        if length < self.end {
            return Err(Error::Error("the store became shorter".into()));
        }
        if length == self.end {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let here = SeekFrom::Start(self.end);
        let read = self.file.seek(here).and_then(|_| self.file.read_to_end(&mut bytes));
        read.map_err(io("reading the store"))?;
        let mut rest = bytes.as_slice();
        while let Some((change, behind)) = first(rest) {
            self.end += (rest.len() - behind.len()) as u64;
            rest = behind;
            change.apply(&mut self.entries);
        }
        Ok(())
    }
}

/// The first change, and what is behind it.
fn first(bytes: &[u8]) -> Option<(Change, &[u8])> {
    let (prefix, behind) = bytes.split_first_chunk::<PREFIX>()?;
    let (length, sum) = prefix.split_first_chunk::<4>()?;
    let (payload, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let whole = sum == checksum(payload).to_le_bytes();
    Some((Change::of(payload).filter(|_| whole)?, behind))
}

/// FNV-1a (Fowler, Noll, Vo) of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn io(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::IoError(error.kind(), doing)
}
