//! One run per folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::{Error, Result};

/// Held while a run writes into its folder. The system lets go of it when the process ends, however it ends: what a dead
/// process leaves behind is a file that nobody holds.
pub(crate) struct RunLock {
    _file: File,
}

const NAME: &str = ".lock";

impl RunLock {
    /// Takes the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Locked`] with the process that holds it.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let io = |e| Error::io(&path, e);
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Some systems do not let others read a locked file.
                let _ = file.read_to_string(&mut holder);
                return Err(Error::Locked {
                    folder: folder.to_owned(),
                    pid: holder.trim().parse().ok(),
                });
            }
            // A file system without locks: nothing to hold.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_what_nobody_holds_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let held = RunLock::take(&out).unwrap();
        let Err(Error::Locked { pid, .. }) = RunLock::take(&out) else {
            panic!("taken twice")
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(held);
        // As a process that was killed leaves it.
        std::fs::write(out.join(NAME), "999999999\n").unwrap();
        let held = RunLock::take(&out).unwrap();
        let text = std::fs::read_to_string(out.join(NAME)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(held);
    }
}
