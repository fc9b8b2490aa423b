use std::path::PathBuf;

/// What can be wrong with an adapter or its configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration value that cannot be.
    #[error("{key}: {why}")]
    Config {
        /// Dotted key.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The targets match nothing in this model.
    #[error("peft.targets: {targets} matches no layer of this model; nearest paths: {}", nearest.join(", "))]
    NoTarget {
        /// What was asked for.
        targets: String,
        /// Paths of the model that are spelled most like it.
        nearest: Vec<String>,
    },
    /// The rank does not fit the matrix.
    #[error("peft.rank: {rank} is above the smaller side of {path} ({rows} x {cols})")]
    Rank {
        /// Module.
        path: String,
        /// Rank asked for.
        rank: usize,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
    },
    /// An adapter that cannot be merged.
    #[error(
        "{path}: {why}, so no weight can stand for it and it cannot be merged; keep base and adapter apart and name the \
         adapter with --adapter"
    )]
    NotMergeable {
        /// Its module.
        path: String,
        /// What stands against it.
        why: &'static str,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An adapter file and a model that do not fit together; every mismatch is listed.
    #[error("{}: does not fit this model:\n  {}", path.display(), mismatches.join("\n  "))]
    Mismatch {
        /// The adapter file.
        path: PathBuf,
        /// One line per missing, unexpected or misshapen tensor.
        mismatches: Vec<String>,
    },
    /// An adapter that is more than LoRA matrices, where only these can be used.
    #[error("{}: is not plain LoRA: {}", path.display(), reasons.join("; "))]
    NotPlain {
        /// The adapter folder.
        path: PathBuf,
        /// What it has beside them.
        reasons: Vec<String>,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
