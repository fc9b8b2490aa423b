//! Arrow's IPC format: streams (what `datasets` saves) and files (Feather version 2), which are streams with an index behind them that a
//! reader from front to back does not need. One batch is in memory at a time.

use std::io::{self, BufRead, Read};

use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{MessageHeader, root_as_message};

use super::{contained, record};
use crate::error::{At, Error, Result};
use crate::sources::{Body, Raw, Sink, Source};

/// Bytes that a batch may take, packed or unpacked.
const MAX_BATCH: u64 = 1 << 30;
/// Bytes that the description of a batch may take.
const MAX_MESSAGE: u64 = 16 << 20;
/// What comes before the stream in a file.
const FILE: &[u8] = b"ARROW1\0\0";

pub(in crate::sources) fn read(source: Source, mut reader: Box<dyn BufRead + '_>, sink: &mut Sink) -> Result<()> {
    let mut number = 0;
    let start = reader.fill_buf().map_err(|e| source.failed(e, At::Record(1)))?;
    if start.starts_with(b"FEA1") {
        return Err(source.file_error("Feather version 1; write it again as version 2 (Arrow's IPC format)"));
    }
    if start.starts_with(FILE) {
        reader.consume(FILE.len());
    }
    let mut decoder = StreamDecoder::new();
    while let Some(frame) = frame(&mut *reader).map_err(|e| failed(source, number, e))? {
        let mut buffer = frame.into();
        let batch = contained(|| decoder.decode(&mut buffer));
        let Some(batch) = batch.map_err(|e| failed(source, number, io::Error::other(e)))? else {
            continue;
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
    Ok(())
}

fn failed(source: Source, number: usize, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => source.io(error),
        None => source.file_error(format!(
            "the Arrow data is damaged or of an unknown kind, behind record {number} ({error})"
        )),
    }
}

/// The next message with its body; none at the end of the stream.
fn frame(reader: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    const MARK: [u8; 4] = [0xff; 4];
    let mut frame = Vec::new();
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = take::<4>(reader, &mut frame)?;
    if length == MARK {
        length = take::<4>(reader, &mut frame)?;
    }
    let length = u64::from(u32::from_le_bytes(length));
    if length == 0 {
        return Ok(None);
    }
    let head = frame.len();
    append(reader, length, MAX_MESSAGE, &mut frame)?;
    let message = root_as_message(&frame[head..]).map_err(|e| io::Error::other(e.to_string()))?;
    let body = u64::try_from(message.bodyLength()).map_err(io::Error::other)?;
    let batch = match message.header_type() {
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|d| d.data()),
        _ => message.header_as_record_batch(),
    };
    let is_packed = batch.is_some_and(|batch| batch.compression().is_some());
    let buffers = batch.and_then(|batch| batch.buffers());
    let buffers: Vec<(i64, i64)> = buffers
        .map(|buffers| buffers.iter().map(|b| (b.offset(), b.length())).collect())
        .unwrap_or_default();
    let start = frame.len();
    append(reader, body, MAX_BATCH, &mut frame)?;
    check(&frame[start..], &buffers, is_packed)?;
    Ok(Some(frame))
}

fn take<const N: usize>(reader: &mut dyn BufRead, frame: &mut Vec<u8>) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    frame.extend(bytes);
    Ok(bytes)
}

/// Memory grows with what is there, not with what is promised.
fn append(reader: &mut dyn BufRead, length: u64, most: u64, frame: &mut Vec<u8>) -> io::Result<()> {
    if length > most {
        return Err(io::Error::other(format!(
            "a part of {length} bytes, more than {} MiB",
            most >> 20
        )));
    }
    match reader.take(length).read_to_end(frame)? as u64 == length {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Refuses a body without room for its buffers, and one whose packed buffers say that they hold more than a batch may take.
fn check(body: &[u8], buffers: &[(i64, i64)], is_packed: bool) -> io::Result<()> {
    let mut sum = 0u64;
    for (offset, length) in buffers {
        let part = usize::try_from(*offset).ok().zip(usize::try_from(*length).ok());
        let part = part.and_then(|(at, length)| body.get(at..at.checked_add(length)?));
        let part = part.ok_or_else(|| io::Error::other("a buffer outside of its batch"))?;
        if let Some(prefix) = part.first_chunk::<8>().filter(|_| is_packed) {
            // -1 stands before what is not packed.
            sum = sum.saturating_add(u64::try_from(i64::from_le_bytes(*prefix)).unwrap_or(0));
        }
    }
    match sum > MAX_BATCH {
        true => Err(io::Error::other(format!(
            "a batch of {sum} bytes, more than {} MiB",
            MAX_BATCH >> 20
        ))),
        false => Ok(()),
    }
}
