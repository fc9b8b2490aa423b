//! What CubeCL's stores ask of Turso's database, over one file: chosen kernels and compiled ones are kept between runs without a
//! hundred crates, one of which needs libclang.
//!
//! The surface is that which cubecl-environment 0.11.3 calls; statements are those of its `persistence` module, known by their text.
//! Any other is an error, which CubeCL logs and does without. A transaction is its statements, each for itself: what is
//! kept can be found out again.
mod file;
mod rows;
mod statement;

pub use rows::{FromValue, IntoParams, Row, Rows, Value};

use file::Store;
use statement::Statement;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What went wrong.
#[derive(Debug)]
pub enum Error {
    /// Never made here: writers wait for each other.
    Busy(String),
    /// Never made here.
    BusySnapshot(String),
    /// The system's.
    IoError(std::io::ErrorKind, &'static str),
    /// Anything else.
    Error(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(why) | Self::BusySnapshot(why) | Self::Error(why) => f.write_str(why),
            Self::IoError(kind, doing) => write!(f, "{doing}: {kind}"),
        }
    }
}

impl std::error::Error for Error {}

/// Opens a file.
#[derive(Debug)]
pub struct Builder {
    path: PathBuf,
    read_only: bool,
}

impl Builder {
    pub fn new_local(path: &str) -> Self {
        Self {
            path: path.into(),
            read_only: false,
        }
    }

    /// Several processes may always share the file.
    pub fn experimental_multiprocess_wal(self, _: bool) -> Self {
        self
    }

    /// There is nothing to compact with.
    pub fn experimental_vacuum(self, _: bool) -> Self {
        self
    }

    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    pub async fn build(self) -> Result<Database> {
        let store = Store::open(&self.path, self.read_only)?;
        Ok(Database(Arc::new(Mutex::new(store))))
    }
}

/// An open file.
#[derive(Debug, Clone)]
pub struct Database(Arc<Mutex<Store>>);

impl Database {
    pub fn connect(&self) -> Result<Connection> {
        Ok(Connection(self.0.clone()))
    }
}

/// Makes statements.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Mutex<Store>>);

impl Connection {
    /// Locks are waited for as long as they are held, which is one record's writing.
    pub fn busy_timeout(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    /// How many rows it changed.
    pub async fn execute(&self, sql: impl AsRef<str>, params: impl IntoParams) -> Result<u64> {
        Statement::of(sql.as_ref())?.execute(&mut self.store(), params.into_params())
    }

    pub async fn query(&self, sql: impl AsRef<str>, params: impl IntoParams) -> Result<Rows> {
        let rows = Statement::of(sql.as_ref())?.query(&mut self.store(), params.into_params())?;
        Ok(Rows(rows.into_iter()))
    }

    /// None has an answer.
    pub async fn pragma_query(&self, _: &str, _: impl FnMut(&Row) -> Result<()>) -> Result<()> {
        Ok(())
    }

    pub async fn transaction_with_behavior(
        &mut self,
        _: transaction::TransactionBehavior,
    ) -> Result<transaction::Transaction<'_>> {
        Ok(transaction::Transaction(self))
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Transactions, of which there are none.
pub mod transaction {
    use super::{Connection, Deref, Result};

    #[derive(Debug, Clone, Copy)]
    pub enum TransactionBehavior {
        Deferred,
        Immediate,
    }

    #[derive(Debug)]
    pub struct Transaction<'a>(pub(crate) &'a mut Connection);

    impl Transaction<'_> {
        pub async fn commit(self) -> Result<()> {
            Ok(())
        }
    }

    impl Deref for Transaction<'_> {
        type Target = Connection;

        fn deref(&self) -> &Connection {
            self.0
        }
    }
}
