//! JSON lines: one object per line. Lines are only cut here; they are parsed in parallel.

use serde_json::Value;

use super::{Body, Opened, Raw, Sink, Source};
use crate::error::{At, Flaw, Result};

pub(super) fn read(source: Source, (mut reader, meter): Opened, first_line: usize, sink: &mut Sink) -> Result<()> {
    for number in first_line.. {
        let mut line = Vec::new();
        meter.restart();
        let read = reader.read_until(b'\n', &mut line);
        if read.map_err(|e| source.failed(e, At::Line(number)))? == 0 {
            break;
        }
        let blank = line.iter().all(u8::is_ascii_whitespace);
        if !blank
            && sink(Raw {
                at: At::Line(number),
                body: Body::Json(line),
            })
            .is_break()
        {
            break;
        }
    }
    Ok(())
}

pub(super) fn parse(line: &[u8]) -> Result<Value, Flaw> {
    let text = std::str::from_utf8(line.trim_ascii_end()).map_err(|e| Flaw::Utf8(e.valid_up_to()))?;
    serde_json::from_str(text).map_err(|e| Flaw::Json {
        column: e.column(),
        what: reason(&e),
    })
}

/// serde_json's message without its position, which counts from the wrong place.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}
