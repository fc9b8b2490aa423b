//! A JSON file that is one array of objects, streamed: only one element is in memory at a time.

use std::fmt;
use std::ops::ControlFlow;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::bounded::Meter;
use super::{Body, Opened, Raw, Sink, Source, jsonl};
use crate::error::{At, Result};

pub(super) fn read(source: Source, (reader, meter): Opened, sink: &mut Sink) -> Result<()> {
    let (mut stopped, mut number) = (false, 0);
    let mut json = serde_json::Deserializer::from_reader(reader);
    let outcome = json
        .deserialize_seq(Elements {
            sink,
            stopped: &mut stopped,
            number: &mut number,
            meter,
        })
        .and_then(|()| json.end());
    match outcome {
        Err(_) if stopped => Ok(()),
        Err(e) if e.is_io() => Err(source.failed(e.into(), At::Record(number + 1))),
        Err(e) => {
            let (line, column) = (e.line(), e.column());
            Err(source.file_error(format!(
                "invalid JSON at line {line}, column {column}: {}",
                jsonl::reason(&e)
            )))
        }
        Ok(()) => Ok(()),
    }
}

struct Elements<'a, 'b> {
    sink: &'a mut Sink<'b>,
    stopped: &'a mut bool,
    number: &'a mut usize,
    meter: Meter,
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element::<Value>()? {
            self.meter.restart();
            *self.number += 1;
            let raw = Raw {
                at: At::Record(*self.number),
                body: Body::Value(value),
            };
            if let ControlFlow::Break(()) = (self.sink)(raw) {
                *self.stopped = true;
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
