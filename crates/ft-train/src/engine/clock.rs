//! How long training has run, by a clock that only goes forward.

use std::time::Instant;

/// Running time of the training steps: evaluations and checkpoints stop it.
#[derive(Debug, Default)]
pub struct Clock {
    since: Option<Instant>,
    /// Seconds of this log interval before `since`.
    interval: f64,
    /// Seconds before this log interval.
    total: f64,
    /// Tokens of this log interval.
    pub tokens: usize,
}

impl Clock {
    /// A clock that has already run for `total` seconds.
    pub fn after(total: f64) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// Runs from now on, if it does not already.
    pub fn run(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Stops until the next [`Clock::run`].
    pub fn pause(&mut self) {
        self.interval += self.since.take().map_or(0.0, |s| s.elapsed().as_secs_f64());
    }

    fn interval(&self) -> f64 {
        self.interval + self.since.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }

    /// All seconds so far.
    pub fn total(&self) -> f64 {
        self.total + self.interval()
    }

    /// Tokens per second of this log interval.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.interval().max(1e-9)
    }

    /// Starts the next log interval.
    pub fn lap(&mut self) {
        let since = self.since.map(|_| Instant::now());
        *self = Self {
            since,
            total: self.total(),
            ..Self::default()
        };
    }
}
