//! What connects ranks, measured between them.

use std::time::Instant;

use crate::{Lost, Ranks, ring_steps, tree_steps};

/// Bytes up to which MPI libraries send a message unasked: Open MPI's `btl_tcp_eager_limit`, or near it.
const EAGER: u64 = 64 << 10;

/// Latencies that a message takes: a large one is announced and asked for before it goes.
pub fn latencies(bytes: u64) -> usize {
    if bytes > EAGER { 3 } else { 1 }
}

/// How fast messages are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Seconds of an empty message.
    pub latency: f64,
    /// Bytes per second that each rank sends in a sum of many numbers, its additions counted.
    pub bandwidth: f64,
}

impl Ranks {
    /// The speed of messages among all ranks, in a fraction of a second on a fast network; none where there is no other.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn measure(&self) -> Result<Option<Speed>, Lost> {
        const SMALL: usize = 100;
        const LARGE: usize = 4;
        if self.is_alone() {
            return Ok(None);
        }
        self.any(false)?;
        let start = Instant::now();
        for _ in 0..SMALL {
            self.any(false)?;
        }
        let latency = start.elapsed().as_secs_f64() / (SMALL * tree_steps(self.size())) as f64;
        let mut numbers = vec![1.0f32; 1 << 22];
        self.sum(&mut numbers)?;
        let start = Instant::now();
        for _ in 0..LARGE {
            self.sum(&mut numbers)?;
        }
        let messages = ring_steps(self.size());
        let part = (size_of_val(numbers.as_slice()) / self.size()) as u64;
        let waited = (messages * latencies(part)) as f64 * latency;
        let seconds = start.elapsed().as_secs_f64() / LARGE as f64 - waited;
        let sent = part as f64 * messages as f64;
        Ok(Some(Speed {
            latency,
            bandwidth: sent / seconds.max(1e-9),
        }))
    }
}
