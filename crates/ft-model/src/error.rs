use std::path::PathBuf;

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
        /// What is wrong and what would be right.
        why: String,
    },
    /// A key of `config.json` that is missing or cannot be.
    #[error("{}: {key}: {why}", path.display())]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A checkpoint whose tensors are not those of its configuration; every mismatch is listed.
    #[error("{}: the tensors do not fit config.json:\n  {}", path.display(), mismatches.join("\n  "))]
    Tensors {
        /// The checkpoint folder.
        path: PathBuf,
        /// One line per missing, unexpected or misshapen tensor.
        mismatches: Vec<String>,
    },
    /// The model still carries adapters, which a plain checkpoint cannot hold.
    #[error("{0} still carries an adapter: fold it before saving a plain checkpoint")]
    NotFolded(String),
    /// An adapter brought a bias to a layer that has none in this architecture.
    #[error(
        "{path}: the adapter adds a bias, and checkpoints of {family} models have none here; keep base and adapter apart and name \
         the adapter with --adapter, or train it without lora_bias"
    )]
    NoPlaceForBias {
        /// The layer.
        path: String,
        /// Of the base.
        family: String,
    },
    /// An adapter that cannot be put on the model.
    #[error(transparent)]
    Adapter(#[from] ft_peft::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
