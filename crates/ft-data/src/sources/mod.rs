//! Files of records, read one record at a time: a data set never stands in memory as text.
//!
//! A reader is one file here plus one line in [`read`]. Whatever it reads may be compressed (`compressed`), and no record may take more
//! than [`MAX_RECORD`] (`bounded`). Which files a name stands for is in `files` and `splits`.

mod bounded;
#[cfg(feature = "parquet")]
mod columns;
mod compressed;
mod csv;
mod files;
mod json;
mod jsonl;
mod splits;
mod text;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use crate::error::{At, Error, Flaw, Result, kind};
use crate::map::Fields;
use bounded::{Meter, bounded};

pub use bounded::{MAX_DOCUMENT, MAX_RECORD};
pub use files::{Files, choose_files, finds};
pub use splits::Role;

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
    pub at: At,
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

    fn open(&self, ending: &str) -> Result<Box<dyn BufRead + '_>> {
        let reader: Box<dyn BufRead> = match self {
            Source::Memory { bytes, .. } => Box::new(*bytes),
            Source::File(path) => {
                let file = File::open(path).map_err(|source| self.io(source))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
        };
        let begin = |e| self.failed(e, At::Line(1));
        let mut reader = compressed::open(reader, ending).map_err(begin)?;
        // A byte order mark is no part of the first column's name.
        if reader.fill_buf().map_err(begin)?.starts_with(b"\xef\xbb\xbf") {
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

/// The endings of data files, without what compression puts behind them.
pub(crate) const KINDS: [&str; 11] = [
    "jsonl", "ndjson", "json", "csv", "tsv", "txt", "text", "md", "parquet", "arrow", "feather",
];

/// The ending that says what a file holds, and the one behind it that says how it is compressed.
pub(crate) fn kind_of(name: &str) -> (&str, &str) {
    let (stem, last) = name.rsplit_once('.').unwrap_or((name, ""));
    match compressed::ENDINGS.contains(&last) {
        true => (stem.rsplit_once('.').map_or("", |(_, kind)| kind), last),
        false => (last, ""),
    }
}

/// Reads every record of `source` into `sink`. `separator` divides the documents of plain-text files.
pub(crate) fn read(source: Source, separator: &str, sink: &mut Sink) -> Result<()> {
    let name = source.name().to_lowercase();
    let (kind, ending) = kind_of(name.rsplit(['/', '\\']).next().unwrap_or_default());
    let limit = match separator {
        "" if matches!(kind, "txt" | "text" | "md") => MAX_DOCUMENT,
        _ => MAX_RECORD,
    };
    let open = || Ok(bounded(source.open(ending)?, limit));
    match kind {
        "jsonl" | "ndjson" | "json" => read_json(source, open()?, sink),
        "csv" => csv::read(source, open()?, b',', sink),
        "tsv" => csv::read(source, open()?, b'\t', sink),
        "txt" | "text" | "md" => text::read(source, open()?, separator, sink),
        #[cfg(feature = "parquet")]
        "parquet" => columns::parquet(source, ending, sink),
        #[cfg(feature = "parquet")]
        "arrow" | "feather" => columns::arrow(source, source.open(ending)?, sink),
        #[cfg(not(feature = "parquet"))]
        "parquet" | "arrow" | "feather" => Err(source.file_error(format!(
            "this program was built without the reader for .{kind}; build it with the feature `parquet` (cargo install --path \
             crates/ft-cli --features parquet), or convert the file to JSON lines"
        ))),
        _ => Err(source.file_error(format!(
            "unknown kind of file `{kind}`; expected .jsonl, .json, .csv, .tsv or .txt, plain or with .gz or .zst behind it, .parquet, .arrow or \
             .feather"
        ))),
    }
}

/// A reader, and what its current record has taken.
type Opened<'a> = (Box<dyn BufRead + 'a>, Meter);

/// Files named .json hold an array or lines; the first byte tells which, whatever the name.
fn read_json(source: Source, (mut reader, meter): Opened, sink: &mut Sink) -> Result<()> {
    let mut line = 1;
    loop {
        let buffer = reader.fill_buf().map_err(|e| source.failed(e, At::Line(line)))?;
        match buffer.first() {
            Some(b'[') => return json::read(source, (reader, meter), sink),
            Some(&space) if space.is_ascii_whitespace() => {
                line += usize::from(space == b'\n');
                reader.consume(1);
                meter.restart();
            }
            _ => return jsonl::read(source, (reader, meter), line, sink),
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
