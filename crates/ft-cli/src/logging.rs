//! `tracing` events of all crates, as lines on stderr.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;

/// `FT_LOG` (e.g. `ft_train=debug,burn=info`) wins over the flags.
pub fn start(verbose: u8, quiet: bool) {
    let filter = match std::env::var("FT_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(default_filter(verbose, quiet)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .with_target(verbose > 1);
    // A second call in one process (a test) keeps the first one's filter.
    let _ = log.with_ansi(crate::failure::color()).without_time().try_init();
}

/// What waits while something else has the terminal.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<Vec<u8>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SavedActivations what goes to [`Stderr`] until [`release`].
pub fn hold() {
    held().get_or_insert_default();
}

/// Writes what was kept, and from here on everything at once.
pub fn release() {
    let told = held().take();
    // A closed stderr leaves nobody to tell.
    let _ = io::stderr().write_all(&told.unwrap_or_default());
}

/// Stderr, which [`hold`] makes wait.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match held().as_mut() {
            Some(held) => held.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether only errors are wanted on stderr: then progress is not.
pub fn quiet() -> bool {
    !tracing::enabled!(tracing::Level::WARN)
}

/// Our crates speak earlier than the ones below them (`ft` matches every target that starts with it).
fn default_filter(verbose: u8, quiet: bool) -> &'static str {
    match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "warn,ft=info",
        (_, 2) => "info,ft=debug",
        _ => "debug,ft=trace",
    }
}
