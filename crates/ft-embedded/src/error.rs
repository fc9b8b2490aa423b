use std::io;
use std::path::PathBuf;

/// What can go wrong while unpacking.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write {}: {source}; the folder must be writable and hold 6 MB", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
