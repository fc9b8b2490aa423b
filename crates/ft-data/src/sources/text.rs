//! Plain text: documents divided by a separator.

use std::io::BufRead;

use super::{Body, Opened, Raw, Sink, Source};
use crate::error::{At, Result};

pub(super) fn read(source: Source, (mut reader, meter): Opened, separator: &str, sink: &mut Sink) -> Result<()> {
    let mut line = 1;
    loop {
        let mut document = Vec::new();
        meter.restart();
        let more = read_document(&mut *reader, separator.as_bytes(), &mut document);
        let more = more.map_err(|e| source.failed(e, At::Line(line)))?;
        let newlines = |bytes: &[u8]| bytes.iter().filter(|&&b| b == b'\n').count();
        let next_line = line + newlines(&document);
        if document.ends_with(separator.as_bytes()) {
            document.truncate(document.len() - separator.len());
        }
        let body = trim_line_breaks(&document);
        let skipped = document.len() - document.trim_ascii_start().len();
        let at = At::Line(line + newlines(&document[..skipped]));
        let blank = body.iter().all(u8::is_ascii_whitespace);
        if !blank
            && sink(Raw {
                at,
                body: Body::Text(body.to_vec()),
            })
            .is_break()
            || !more
        {
            return Ok(());
        }
        line = next_line;
    }
}

/// Appends up to and including the next separator; false at the end of the file.
fn read_document(reader: &mut dyn BufRead, separator: &[u8], document: &mut Vec<u8>) -> std::io::Result<bool> {
    let Some(&last) = separator.last() else {
        reader.read_to_end(document)?;
        return Ok(false);
    };
    while reader.read_until(last, document)? > 0 {
        if document.ends_with(separator) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn trim_line_breaks(bytes: &[u8]) -> &[u8] {
    let breaks = |b: &u8| matches!(b, b'\n' | b'\r');
    let start = bytes.iter().position(|b| !breaks(b)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|b| !breaks(b)).map_or(start, |e| e + 1);
    &bytes[start..end]
}
