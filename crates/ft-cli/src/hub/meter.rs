//! How far a download is, on stderr: a line that changes on a terminal, one line elsewhere.

use std::io::{IsTerminal, Write};

use crate::logging;

/// Bytes of several files, one after the other.
pub(super) struct Meter {
    label: String,
    total: u64,
    /// Of the files before this one.
    done: u64,
    shown: Option<u64>,
}

impl Meter {
    pub fn start(label: &str, total: u64) -> Self {
        let line = total > 0 && !logging::quiet();
        let terminal = line && std::io::stderr().is_terminal();
        if line && !terminal {
            // Telling is not worth a download: a closed stderr is ignored.
            let _ = writeln!(std::io::stderr(), "fetching {label}: {}", size(total));
        }
        Self {
            label: label.to_owned(),
            total,
            done: 0,
            shown: terminal.then_some(u64::MAX),
        }
    }

    /// So many bytes of the present file are there.
    pub fn at(&mut self, bytes: u64) {
        let percent = (self.done + bytes).saturating_mul(100) / self.total.max(1);
        if let Some(shown) = self.shown.as_mut().filter(|shown| **shown != percent) {
            *shown = percent;
            let _ = write!(
                std::io::stderr(),
                "\rfetching {}: {percent:>3} % of {}",
                self.label,
                size(self.total)
            );
        }
    }

    /// The present file, of so many bytes, is whole.
    pub fn next(&mut self, bytes: u64) {
        self.done += bytes;
    }

    pub fn end(&self) {
        if self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
