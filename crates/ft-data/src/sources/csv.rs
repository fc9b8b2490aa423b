//! Comma or tab separated values under a header row.

use ::csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::{Body, Opened, Raw, Sink, Source};
use crate::error::{At, Flaw, Result};

pub(super) fn read(source: Source, (mut reader, meter): Opened, delimiter: u8, sink: &mut Sink) -> Result<()> {
    // The csv crate ends a row at its CR and counts the LF after it to the row that follows.
    let behind = usize::from(has_crlf(reader.fill_buf().map_err(|e| source.failed(e, At::Line(1)))?));
    // Tab separated files do not quote by convention: a lone quotation mark there is just that.
    let mut csv = ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(delimiter == b',')
        .from_reader(reader);
    let header = csv.headers().map_err(|e| broken(source, e, 1))?.clone();
    if let Some(twice) = header
        .iter()
        .enumerate()
        .find(|(i, name)| header.iter().take(*i).any(|n| n == *name))
    {
        return Err(source.file_error(format!("the header names the column `{}` twice", twice.1)));
    }
    let mut row = StringRecord::new();
    loop {
        let line = csv.position().line() as usize;
        meter.restart();
        let body = match csv.read_record(&mut row) {
            Ok(false) => return Ok(()),
            Ok(true) => Body::Fields(fields(&header, &row)),
            Err(error) => Body::Flawed(flaw(source, error, line + behind)?),
        };
        let line = row.position().map_or(line, |p| p.line() as usize);
        if sink(Raw {
            at: At::Line(line + behind),
            body,
        })
        .is_break()
        {
            return Ok(());
        }
    }
}

/// Whether the first line ends as lines do on Windows.
fn has_crlf(start: &[u8]) -> bool {
    let end = start.iter().position(|b| *b == b'\n');
    end.is_some_and(|end| start[..end].ends_with(b"\r"))
}

fn fields(header: &StringRecord, row: &StringRecord) -> crate::map::Fields {
    header
        .iter()
        .zip(row)
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect()
}

/// Errors after which the next row can still be read.
fn flaw(source: Source, error: ::csv::Error, line: usize) -> Result<Flaw> {
    match error.kind() {
        ErrorKind::Utf8 { err, .. } => Ok(Flaw::Utf8(err.valid_up_to())),
        ErrorKind::UnequalLengths { expected_len, len, .. } => Ok(Flaw::Fields {
            expected: *expected_len as usize,
            found: *len as usize,
        }),
        _ => Err(broken(source, error, line)),
    }
}

fn broken(source: Source, error: ::csv::Error, line: usize) -> crate::Error {
    match error.into_kind() {
        ErrorKind::Io(e) => source.failed(e, At::Line(line)),
        ErrorKind::Utf8 { .. } => source.file_error("the header is not UTF-8; save the file as UTF-8"),
        other => source.file_error(format!("invalid CSV: {other:?}")),
    }
}
