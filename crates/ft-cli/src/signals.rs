//! SIGINT and SIGTERM: the first one asks the run to save and stop, a second one ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

use crate::screen;

/// Raised by the first signal.
#[derive(Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    /// The first signal's number.
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Starts listening. From here on a first SIGINT or SIGTERM only raises the flag.
    pub fn listen() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            let Self { asked, signal: first } = stop.clone();
            let hear = move || {
                let number = signal as usize;
                // One step, because two signals may reach two threads at once.
                match first.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => asked.store(true, Ordering::SeqCst),
                    Err(_) => {
                        screen::abandon();
                        low_level::exit(128 + signal);
                    }
                }
            };
            // SAFETY: the handler works on atomics, writes, sets the terminal's modes and exits, which signal-safety(7) allows; it neither
            // allocates nor locks.
            unsafe { low_level::register(signal, hear) }?;
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
        (signal > 0).then_some(signal)
    }
}
