//! Whether someone asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::train::Interrupter;
use ft_ranks::Ranks;

/// The two ways to ask.
#[derive(Clone)]
pub struct Stop {
    /// Raised from outside; where there are several ranks, when they have met after one of them was asked.
    pub flag: Arc<AtomicBool>,
    /// burn-train's own, which its renderer raises, and which takes its errors.
    pub interrupter: Interrupter,
    /// Raised from outside in this process, where there are several.
    own: Option<Arc<AtomicBool>>,
}

impl Stop {
    /// Of a process that `flag` asks.
    pub fn new(flag: Arc<AtomicBool>, interrupter: Interrupter, ranks: &Ranks) -> Self {
        match ranks.is_alone() {
            true => Self {
                flag,
                interrupter,
                own: None,
            },
            false => Self {
                flag: Arc::default(),
                interrupter,
                own: Some(flag),
            },
        }
    }

    /// Whether the run is to stop. Several ranks find the same at the same point.
    pub fn asked(&self) -> bool {
        self.flag.load(Ordering::Relaxed) || (self.own.is_none() && self.interrupter.should_stop())
    }

    /// What is raised from outside in this process, for what it does alone.
    pub fn here(&self) -> &AtomicBool {
        self.own.as_ref().unwrap_or(&self.flag)
    }

    /// Whether this process was asked.
    pub fn asked_here(&self) -> bool {
        self.here().load(Ordering::Relaxed) || self.interrupter.should_stop()
    }

    /// All ranks know that one was asked.
    pub fn agree(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}
