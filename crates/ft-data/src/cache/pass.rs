//! Going through samples that are mapped into memory, without all of them becoming a part of this process.

use std::sync::Arc;

use super::shard::Shard;
use crate::sample::Sample;

/// The samples one after the other. Of those in the token cache one shard at a time stays in the memory of the process.
pub fn passing(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    Passing {
        samples: samples.iter(),
        shard: None,
    }
}

/// Takes what was read of these samples out of the memory of the process, where they lie in the token cache.
pub fn let_go<'s>(samples: impl IntoIterator<Item = &'s Sample>) {
    let mut passing = Passing {
        samples: samples.into_iter(),
        shard: None,
    };
    while passing.next().is_some() {}
}

struct Passing<'s, I> {
    samples: I,
    shard: Option<&'s Arc<Shard>>,
}

impl<'s, I: Iterator<Item = &'s Sample>> Iterator for Passing<'s, I> {
    type Item = &'s Sample;

    fn next(&mut self) -> Option<&'s Sample> {
        let sample = self.samples.next()?;
        let shard = sample.ids.shard();
        if self.shard.map(Arc::as_ptr) != shard.map(Arc::as_ptr) {
            self.let_go();
            self.shard = shard;
        }
        Some(sample)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.samples.size_hint()
    }
}

impl<I> Passing<'_, I> {
    fn let_go(&self) {
        if let Some(shard) = self.shard {
            shard.let_go();
        }
    }
}

impl<I> Drop for Passing<'_, I> {
    fn drop(&mut self) {
        self.let_go();
    }
}
