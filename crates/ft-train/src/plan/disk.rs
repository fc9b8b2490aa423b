//! Room on the disk.

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

use crate::plan::Steps;

/// What the checkpoints of a run take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Bytes of one checkpoint: what trains, the optimizer's states, and the weights as others read them.
    pub checkpoint: u64,
    /// Bytes that the run will take at most, beyond what its folder holds already.
    pub needed: u64,
    /// Bytes that are free where the run folder is or will be, where the system tells.
    pub available: Option<u64>,
}

impl Disk {
    /// For checkpoints of `checkpoint` bytes, and a result of `result` bytes, on a disk that is not here.
    pub(crate) fn new(checkpoint: u64, result: u64, steps: &Steps) -> Self {
        let saves = steps.total.div_ceil(steps.save_every) as u64;
        // The new one is whole before the oldest goes away, and the best one stays besides.
        let kept = (steps.keep as u64 + 1 + u64::from(steps.load_best)).min(saves);
        Self {
            checkpoint,
            needed: kept.saturating_mul(checkpoint).saturating_add(result),
            available: None,
        }
    }

    /// The same in the run folder `out` of this machine.
    pub(crate) fn here(checkpoint: u64, result: u64, steps: &Steps, out: &Path) -> Self {
        let whole = Self::new(checkpoint, result, steps);
        let held = bytes_in(&out.join("checkpoints"));
        Self {
            needed: whole.needed.saturating_sub(held),
            available: available(out),
            ..whole
        }
    }

    /// Whether the run fits, where that is known.
    pub fn fits(&self) -> Option<bool> {
        self.available.map(|free| self.needed <= free)
    }
}

/// Bytes that are free for `path`, or for the nearest folder above it that is there.
pub(crate) fn available(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|folder| folder.exists())?;
    free(there)
}

#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

/// Bytes of the files in a folder and in those below it.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_in(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Whether an error, or what caused it, is that nothing more can be written.
pub(crate) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = match error.downcast_ref::<safetensors::SafeTensorError>() {
            Some(safetensors::SafeTensorError::IoError(io)) => Some(io),
            _ => error.downcast_ref::<std::io::Error>(),
        };
        let full = [
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::FileTooLarge,
        ];
        if io.is_some_and(|io| full.contains(&io.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}
