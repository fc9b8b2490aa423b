//! Files compressed with gzip or Zstandard, told by their first bytes.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Endings that a compressed file may have behind the ending of its contents.
pub(super) const ENDINGS: [&str; 3] = ["gz", "zst", "zstd"];

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the number before a frame to skip.
const SKIPPED: &[u8] = &[0x2a, 0x4d, 0x18];
/// Largest window of a Zstandard frame, which is memory while it is read: what `zstd -d` takes.
const MAX_WINDOW: u64 = 128 << 20;
const BUFFER: usize = 1 << 16;

/// The contents of what may be compressed; `ending` is that of the file's name.
pub(super) fn open<'a>(mut reader: Box<dyn BufRead + 'a>, ending: &str) -> io::Result<Box<dyn BufRead + 'a>> {
    let start = reader.fill_buf()?;
    if start.starts_with(GZIP) {
        let gzip = Told {
            inner: MultiGzDecoder::new(reader),
            kind: "gzip",
        };
        return Ok(Box::new(BufReader::with_capacity(BUFFER, gzip)));
    }
    if start.starts_with(ZSTD) || (ending != "gz" && start.get(1..4) == Some(SKIPPED)) {
        let frames = Told {
            inner: Frames::new(reader),
            kind: "Zstandard",
        };
        return Ok(Box::new(BufReader::with_capacity(BUFFER, frames)));
    }
    match ENDINGS.contains(&ending) {
        true => Err(io::Error::other(Damage(format!(
            "the name ends in .{ending}, and the contents are neither gzip nor Zstandard"
        )))),
        false => Ok(reader),
    }
}

/// What is wrong with compressed data.
#[derive(Debug)]
pub(super) struct Damage(String);

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A decoder whose errors say what they are errors of.
struct Told<R> {
    inner: R,
    kind: &'static str,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.inner.read(out).map_err(|e| {
            let kind = self.kind;
            io::Error::other(Damage(format!("the {kind} data is damaged or cut off ({e})")))
        })
    }
}

/// Zstandard frames one behind the other.
struct Frames<R> {
    reader: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(reader: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Frames {
            reader,
            decoder,
            inside: false,
        }
    }

    /// Goes into the next frame that holds data; false at the end of the file.
    fn enter(&mut self) -> io::Result<bool> {
        while !self.reader.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.reader) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.reader.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(false)
    }

    fn leave(&mut self) -> io::Result<()> {
        self.inside = false;
        let told = self.decoder.get_checksum_from_data();
        match told.is_some() && told != self.decoder.get_calculated_checksum() {
            true => Err(io::Error::other("the checksum is another")),
            false => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside {
                self.inside = self.enter()?;
                if !self.inside {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder
                    .decode_blocks(&mut self.reader, one)
                    .map_err(io::Error::other)?;
            }
            match self.decoder.read(out)? {
                0 if !out.is_empty() => self.leave()?,
                read => return Ok(read),
            }
        }
    }
}
