//! Whether someone asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::train::Interrupter;

/// The two ways to ask.
#[derive(Clone)]
pub struct Stop {
    /// Raised from outside.
    pub flag: Arc<AtomicBool>,
    /// burn-train's own, which its renderer raises, and which takes its errors.
    pub interrupter: Interrupter,
}

impl Stop {
    /// Whether either was used.
    pub fn asked(&self) -> bool {
        self.flag.load(Ordering::Relaxed) || self.interrupter.should_stop()
    }
}
