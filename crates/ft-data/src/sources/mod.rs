//! Files of records, read one record at a time: a data set never stands in memory as text.
//!
//! A reader is one file here plus one line in [`read`]. Sharded, compressed and remote sources would join as further readers.

mod csv;
mod json;
mod jsonl;
mod text;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Flaw, Place, Result, kind};
use crate::map::Fields;

/// Where examples come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A file; its extension says what it is.
    File(&'a Path),
    /// Bytes built into the program, under a name with an extension.
    Memory {
        /// Name for messages; its extension says what the bytes are.
        name: &'a str,
        /// The contents.
        bytes: &'a [u8],
    },
}

/// A record as read, parsed later and in parallel.
#[derive(Debug)]
pub(crate) struct Raw {
    pub place: Place,
    pub body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Json(Vec<u8>),
    Value(Value),
    Fields(Fields),
    Text(Vec<u8>),
    Flawed(Flaw),
}

/// Takes records; breaking ends the reading without an error.
pub(crate) type Sink<'a> = dyn FnMut(Raw) -> ControlFlow<()> + 'a;

impl Source<'_> {
    /// The name for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Memory { name, .. } => (*name).into(),
        }
    }

    fn open(&self) -> Result<Box<dyn BufRead + '_>> {
        let mut reader: Box<dyn BufRead> = match self {
            Source::Memory { bytes, .. } => Box::new(*bytes),
            Source::File(path) => {
                let file = File::open(path).map_err(|source| self.io(source))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
        };
        // A byte order mark is no part of the first column's name.
        if reader
            .fill_buf()
            .map_err(|source| self.io(source))?
            .starts_with(b"\xef\xbb\xbf")
        {
            reader.consume(3);
        }
        Ok(reader)
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io {
            path: self.name().into(),
            source,
        }
    }

    fn file_error(&self, what: impl Into<String>) -> Error {
        Error::File {
            file: self.name(),
            what: what.into(),
        }
    }
}

/// Reads every record of `source` into `sink`. `separator` divides the documents of plain-text files.
pub(crate) fn read(source: Source, separator: &str, sink: &mut Sink) -> Result<()> {
    let name = source.name().to_lowercase();
    let extension = Path::new(&name)
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let reader = source.open()?;
    match extension {
        "jsonl" | "ndjson" | "json" => read_json(source, reader, sink),
        "csv" => csv::read(source, reader, b',', sink),
        "tsv" => csv::read(source, reader, b'\t', sink),
        "txt" | "text" | "md" => text::read(source, reader, separator, sink),
        _ => Err(source.file_error(format!(
            "unknown kind of file `{extension}`; expected .jsonl, .json, .csv, .tsv or .txt, uncompressed"
        ))),
    }
}

/// Files named .json hold an array or lines; the first byte tells which, whatever the name.
fn read_json(source: Source, mut reader: Box<dyn BufRead + '_>, sink: &mut Sink) -> Result<()> {
    let mut line = 1;
    loop {
        let buffer = reader.fill_buf().map_err(|e| source.io(e))?;
        match buffer.first() {
            Some(b'[') => return json::read(source, reader, sink),
            Some(&space) if space.is_ascii_whitespace() => {
                line += usize::from(space == b'\n');
                reader.consume(1);
            }
            _ => return jsonl::read(source, reader, line, sink),
        }
    }
}

impl Body {
    /// The record's columns.
    pub fn fields(self) -> Result<Fields, Flaw> {
        match self {
            Body::Json(line) => object(jsonl::parse(&line)?),
            Body::Value(value) => object(value),
            Body::Fields(fields) => Ok(fields),
            Body::Text(bytes) => {
                let text = String::from_utf8(bytes).map_err(|e| Flaw::Utf8(e.utf8_error().valid_up_to()))?;
                Ok([("text".to_owned(), Value::String(text))].into_iter().collect())
            }
            Body::Flawed(flaw) => Err(flaw),
        }
    }

    /// About how much memory the record takes, in bytes.
    pub fn weight(&self) -> usize {
        match self {
            Body::Json(bytes) | Body::Text(bytes) => bytes.len(),
            Body::Fields(fields) => fields.values().map(|v| 64 + v.as_str().map_or(0, str::len)).sum(),
            Body::Value(_) | Body::Flawed(_) => 1024,
        }
    }
}

fn object(value: Value) -> Result<Fields, Flaw> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(Flaw::NotAnObject(kind(&other))),
    }
}

#[cfg(test)]
mod tests;
