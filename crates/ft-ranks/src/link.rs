//! How bytes get from one rank to another.

use std::time::{Duration, Instant};

/// Why nothing comes from a rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It is there for all that is known, and says nothing.
    #[error("rank {rank} has said nothing for {} s: it hangs, is much slower than the others, or cannot be reached", after.as_secs())]
    Silent {
        /// Who.
        rank: usize,
        /// How long it was waited for.
        after: Duration,
    },
    /// It has ended.
    #[error("rank {rank} has ended")]
    Gone {
        /// Who.
        rank: usize,
    },
    /// It says something else than what was asked.
    #[error("rank {rank} is at another point of the run: {found} bytes came where {expected} were expected")]
    OutOfStep {
        /// Who.
        rank: usize,
        /// Bytes that came.
        found: usize,
        /// Bytes that should have.
        expected: usize,
    },
}

/// One rank's end of the connections to all others. What one rank sends another arrives in the order in which it was sent.
pub trait Link: Send {
    /// This rank's number.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Hands bytes over for the rank `to`, without waiting until they are there.
    ///
    /// # Errors
    /// A rank that has ended.
    fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), Lost>;

    /// The next `length` bytes of the rank `from`; none where they are not there by `until`, and the same may be asked again.
    ///
    /// # Errors
    /// A rank that has ended, or sends something else.
    fn receive(&mut self, from: usize, length: usize, until: Instant) -> Result<Option<Vec<u8>>, Lost>;

    /// Waits until all that was handed over is on its way without this rank's help; the rank that does not take it where it has
    /// not by `until`.
    fn flush(&mut self, until: Instant) -> Result<(), usize>;
}
