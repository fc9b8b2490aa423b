/// What can be wrong with a packed matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A block size that the format does not have.
    #[error("block size {0}: must be a power of two from 32 to 4096")]
    Block(usize),
    /// Options that exclude each other.
    #[error("double quantization is for nf4 and fp4: int8 has one scale per row already")]
    DoubleInt8,
    /// A value that no code stands for.
    #[error("the value at row {row}, column {column} is {value}: only finite numbers can be quantized")]
    NotFinite {
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        column: usize,
        /// The value, as text.
        value: String,
    },
    /// Stored tensors that do not make up a packed matrix.
    #[error("{0}")]
    Stored(String),
}

impl Error {
    /// The key of section `[model.quant]` that is to blame, where one is.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Error::Block(_) => Some("block_size"),
            Error::DoubleInt8 => Some("double"),
            Error::NotFinite { .. } | Error::Stored(_) => None,
        }
    }
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
