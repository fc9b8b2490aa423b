//! Ranks that are threads of one process.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::{Link, Lost, Ranks};

struct Threads {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

/// `size` ranks, each for a thread of its own.
pub fn threads(size: usize, timeout: Duration) -> Vec<Ranks> {
    let mut ends: Vec<Threads> = (0..size)
        .map(|rank| Threads {
            rank,
            to: Vec::new(),
            from: Vec::new(),
        })
        .collect();
    for from in 0..size {
        for to in 0..size {
            let (sender, receiver) = channel();
            ends[from].to.push(sender);
            ends[to].from.push(receiver);
        }
    }
    ends.into_iter()
        .map(|end| Ranks::over(Box::new(end), timeout))
        .collect()
}

impl Link for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), Lost> {
        self.to[to].send(bytes).map_err(|_| Lost::Gone { rank: to })
    }

    fn receive(&mut self, from: usize, length: usize, until: Instant) -> Result<Option<Vec<u8>>, Lost> {
        let left = until.saturating_duration_since(Instant::now());
        match self.from[from].recv_timeout(left) {
            Ok(bytes) if bytes.len() == length => Ok(Some(bytes)),
            Ok(bytes) => Err(Lost::OutOfStep {
                rank: from,
                found: bytes.len(),
                expected: length,
            }),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Lost::Gone { rank: from }),
        }
    }

    fn flush(&mut self, _: Instant) -> Result<(), usize> {
        Ok(())
    }
}
