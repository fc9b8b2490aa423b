//! SIGINT and SIGTERM: the first one asks the run to save and stop, a second one ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Raised by the first signal.
#[derive(Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Starts listening. From here on a first SIGINT or SIGTERM only raises the flag.
    pub fn listen() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the exit sees the flag as the signals before this one left it.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.asked.clone())?;
            flag::register_usize(signal, stop.signal.clone(), signal as usize)?;
            flag::register(signal, stop.asked.clone())?;
        }
        Ok(stop)
    }

    /// The flag that the training loop watches.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    /// The signal that raised the flag.
    pub fn signal(&self) -> Option<usize> {
        let signal = self.signal.load(Ordering::SeqCst);
        self.asked.load(Ordering::SeqCst).then_some(signal)
    }
}
