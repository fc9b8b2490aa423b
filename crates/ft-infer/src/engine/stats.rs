//! Figures of an engine, read while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// What the engine has done and is doing.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64),*
        }

        /// The same while they change.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: Counter),*
        }

        impl Counters {
            pub fn read(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Ordering::Relaxed)),* }
            }
        }
    };
}

stats! {
    /// Requests that wait for a place.
    waiting,
    /// Requests that are worked on.
    running,
    /// Requests that ended as they should.
    finished,
    /// Requests whose client went away.
    cancelled,
    /// Requests that ended with an error.
    failed,
    /// Times a request gave its cache up for others, to compute it again later.
    preempted,
    /// Forward passes.
    steps,
    /// Tokens of prompts that were read, those read again included.
    prompt_tokens,
    /// Tokens whose keys and values an ended request had left.
    reused_tokens,
    /// Tokens that were generated.
    generated_tokens,
    /// Tokens that were computed ahead, because they stood there before.
    drafted_tokens,
    /// Those of them that were what the model says.
    accepted_tokens,
    /// Positions of the cache that are taken.
    cache_used,
    /// Positions of the cache.
    cache_positions,
    /// Adapters in memory.
    adapters_in_memory,
    /// Adapters that were read again after they had left memory.
    adapter_reloads,
    /// Texts of which vectors were made.
    embedded_texts,
    /// Microseconds from the arrival of requests to their first token, summed over `first_tokens`.
    first_token_micros,
    /// First tokens that were generated.
    first_tokens,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more, unless that were more than `most`.
    pub fn enter(&self, most: u64) -> bool {
        let more = |count| (count < most).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub fn leave(&self) {
        let less = |count: u64| Some(count.saturating_sub(1));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}
