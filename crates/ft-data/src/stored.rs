//! Numbers that a sample holds: its own, or a part of a shard that is mapped into memory.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::cache::Shard;

/// What shards hold: one or two of their words.
pub trait Word: Copy + PartialEq + fmt::Debug + 'static {
    /// Words of 32 bits that it takes.
    const WORDS: usize;

    /// The words as these.
    fn of(words: &[u32]) -> &[Self];
}

impl Word for u32 {
    const WORDS: usize = 1;

    fn of(words: &[u32]) -> &[u32] {
        words
    }
}

impl Word for [u32; 2] {
    const WORDS: usize = 2;

    fn of(words: &[u32]) -> &[[u32; 2]] {
        words.as_chunks().0
    }
}

/// A list that reads like a slice, and does not take memory of the process where it lies in the token cache.
#[derive(Clone)]
pub struct Stored<T>(Held<T>);

#[derive(Clone)]
enum Held<T> {
    Own(Vec<T>),
    Mapped { shard: Arc<Shard>, start: u32, len: u32 },
}

impl<T: Word> Stored<T> {
    /// `len` items of a shard, from its word `start` on, which must be there.
    pub(crate) fn mapped(shard: &Arc<Shard>, start: u32, len: u32) -> Stored<T> {
        Stored(Held::Mapped {
            shard: shard.clone(),
            start,
            len,
        })
    }

    /// The first `len` items, where there are more.
    pub(crate) fn truncate(&mut self, len: usize) {
        match &mut self.0 {
            Held::Own(items) => items.truncate(len),
            Held::Mapped { len: kept, .. } => *kept = (*kept).min(u32::try_from(len).unwrap_or(u32::MAX)),
        }
    }

    /// The items as a list that can be changed.
    pub fn to_mut(&mut self) -> &mut Vec<T> {
        if let Held::Mapped { .. } = self.0 {
            self.0 = Held::Own(self.to_vec());
        }
        match &mut self.0 {
            Held::Own(items) => items,
            Held::Mapped { .. } => unreachable!("made its own just now"),
        }
    }

    /// The shard that holds them.
    pub(crate) fn shard(&self) -> Option<&Arc<Shard>> {
        match &self.0 {
            Held::Own(_) => None,
            Held::Mapped { shard, .. } => Some(shard),
        }
    }
}

impl<T: Word> Deref for Stored<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Held::Own(items) => items,
            Held::Mapped { shard, start, len } => {
                let start = *start as usize;
                T::of(&shard.words()[start..start + *len as usize * T::WORDS])
            }
        }
    }
}

impl<T> From<Vec<T>> for Stored<T> {
    fn from(items: Vec<T>) -> Stored<T> {
        Stored(Held::Own(items))
    }
}

impl<T> Default for Stored<T> {
    fn default() -> Stored<T> {
        Vec::new().into()
    }
}

impl<T: Word> PartialEq for Stored<T> {
    fn eq(&self, other: &Stored<T>) -> bool {
        **self == **other
    }
}

impl<T: Word + Eq> Eq for Stored<T> {}

impl<T: Word> PartialEq<[T]> for Stored<T> {
    fn eq(&self, other: &[T]) -> bool {
        **self == *other
    }
}

impl<T: Word> PartialEq<Vec<T>> for Stored<T> {
    fn eq(&self, other: &Vec<T>) -> bool {
        **self == **other
    }
}

impl<T: Word, const N: usize> PartialEq<[T; N]> for Stored<T> {
    fn eq(&self, other: &[T; N]) -> bool {
        **self == *other
    }
}

impl<T: Word> fmt::Debug for Stored<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a, T: Word> IntoIterator for &'a Stored<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
