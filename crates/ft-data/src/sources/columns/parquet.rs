//! Parquet: a few rows at a time, whatever the size of the file and of its row groups.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::errors::{ParquetError, Result as Parquet};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use super::{contained, record};
use crate::error::{At, Error, Result};
use crate::sources::{Body, Raw, Sink, Source};

/// Rows that are in memory at once.
const ROWS: usize = 64;

pub(in crate::sources) fn read(source: Source, ending: &str, sink: &mut Sink) -> Result<()> {
    if !ending.is_empty() {
        return Err(source.file_error("Parquet is compressed inside; unpack this file first"));
    }
    let mut number = 0;
    let chunks = Chunks::open(source)?;
    let build = || {
        ParquetRecordBatchReaderBuilder::try_new(chunks)?
            .with_batch_size(ROWS)
            .build()
    };
    let mut batches = contained(build).map_err(|e| damaged(source, 0, &e))?;
    loop {
        let batch = contained(|| batches.next().transpose()).map_err(|e| damaged(source, number, &e))?;
        let Some(batch) = batch else {
            return Ok(());
        };
        for row in 0..batch.num_rows() {
            number += 1;
            let body = record(&batch, row).map_or_else(Body::Flawed, Body::Fields);
            let at = At::Record(number);
            if sink(Raw { at, body }).is_break() {
                return Ok(());
            }
        }
    }
}

fn damaged(source: Source, number: usize, error: &str) -> Error {
    source.file_error(format!(
        "the Parquet data is damaged or of an unknown kind, behind record {number} ({error})"
    ))
}

/// The bytes of a file by position, of which no more is asked than there are.
enum Chunks {
    File(File, u64),
    Memory(Bytes),
}

impl Chunks {
    fn open(source: Source) -> Result<Chunks> {
        match source {
            Source::Memory { bytes, .. } => Ok(Chunks::Memory(Bytes::copy_from_slice(bytes))),
            Source::File(path) => {
                let file = File::open(path).map_err(|e| source.io(e))?;
                let length = file.metadata().map_err(|e| source.io(e))?.len();
                Ok(Chunks::File(file, length))
            }
        }
    }

    fn check(&self, start: u64, length: usize) -> Parquet<()> {
        let end = start.checked_add(length as u64);
        match end.is_some_and(|end| end <= self.len()) {
            true => Ok(()),
            false => Err(ParquetError::EOF(format!(
                "{length} bytes from byte {start} on, in a file of {}",
                self.len()
            ))),
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        match self {
            Chunks::File(_, length) => *length,
            Chunks::Memory(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Chunks {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Parquet<Self::T> {
        self.check(start, 0)?;
        match self {
            Chunks::Memory(bytes) => Ok(Box::new(Cursor::new(bytes.slice(start as usize..)))),
            Chunks::File(file, _) => Ok(Box::new(BufReader::new(at(file, start)?))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Parquet<Bytes> {
        self.check(start, length)?;
        match self {
            Chunks::Memory(bytes) => Ok(bytes.slice(start as usize..start as usize + length)),
            Chunks::File(file, _) => {
                let mut bytes = vec![0; length];
                at(file, start)?.read_exact(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }
}

fn at(file: &File, start: u64) -> std::io::Result<File> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(start))?;
    Ok(file)
}
