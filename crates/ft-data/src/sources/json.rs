//! A JSON file that is one array of objects, streamed: only one element is in memory at a time.

use std::fmt;
use std::io::BufRead;
use std::ops::ControlFlow;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::{Body, Raw, Sink, Source, jsonl};
use crate::error::{Place, Result};

pub(super) fn read(source: Source, reader: Box<dyn BufRead + '_>, sink: &mut Sink) -> Result<()> {
    let mut stopped = false;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let outcome = json
        .deserialize_seq(Elements {
            sink,
            stopped: &mut stopped,
        })
        .and_then(|()| json.end());
    match outcome {
        Err(_) if stopped => Ok(()),
        Err(e) if e.is_io() => Err(source.io(e.into())),
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
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(value) = elements.next_element::<Value>()? {
            number += 1;
            let raw = Raw {
                place: Place::Record(number),
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
