//! How much of a file one record may take: a line without end or a zip bomb is an error with its place, not memory.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use crate::error::{At, Error};

use super::Source;

/// Bytes that one record may take, uncompressed.
pub const MAX_RECORD: usize = 8 << 20;
/// The same where a whole plain-text file is one document.
pub const MAX_DOCUMENT: usize = 256 << 20;

/// A reader that fails once a record has taken more than its share.
struct Bounded<'a> {
    inner: Box<dyn BufRead + 'a>,
    meter: Meter,
    limit: usize,
}

/// What the current record has taken so far.
#[derive(Clone, Default)]
pub(super) struct Meter(Rc<Cell<usize>>);

impl Meter {
    /// The next record begins.
    pub fn restart(&self) {
        self.0.set(0);
    }
}

/// `inner`, of which one record may take `limit` bytes, and its meter, which has to be told where records begin.
pub(super) fn bounded<'a>(inner: Box<dyn BufRead + 'a>, limit: usize) -> (Box<dyn BufRead + 'a>, Meter) {
    let meter = Meter::default();
    let bounded = Bounded {
        inner,
        meter: meter.clone(),
        limit,
    };
    (Box::new(bounded), meter)
}

impl Read for Bounded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffer = self.fill_buf()?;
        let taken = buffer.len().min(out.len());
        out[..taken].copy_from_slice(&buffer[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}

impl BufRead for Bounded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // One byte more than the limit may be taken, to tell a record that just fits from one that goes on.
        let left = (self.limit + 1).saturating_sub(self.meter.0.get());
        if left == 0 {
            return Err(io::Error::other(TooLong(self.limit)));
        }
        let buffer = self.inner.fill_buf()?;
        Ok(&buffer[..buffer.len().min(left)])
    }

    fn consume(&mut self, amount: usize) {
        let meter = &self.meter.0;
        meter.set(meter.get().saturating_add(amount));
        self.inner.consume(amount);
    }
}

#[derive(Debug)]
struct TooLong(usize);

impl std::error::Error for TooLong {}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "takes more than {} MiB", self.0 >> 20)
    }
}

impl Source<'_> {
    /// The error for a reader that failed in the record that begins at `at`.
    pub(super) fn failed(&self, error: io::Error, at: At) -> Error {
        let inner = error.get_ref();
        if let Some(long) = inner.and_then(|e| e.downcast_ref::<TooLong>()) {
            let fix = "cut it into several; is a line break, a quotation mark or data.separator missing?";
            return self.file_error(format!("the record at {at} {long}, more than a record may take; {fix}"));
        }
        if let Some(damage) = inner.and_then(|e| e.downcast_ref::<super::compressed::Damage>()) {
            return self.file_error(format!("{damage}, after {at}; get the file again"));
        }
        self.io(error)
    }
}
