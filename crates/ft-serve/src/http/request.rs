//! A request as it comes over a connection: the head in bounds, the body by length or in chunks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::error::ApiError;
use crate::http::Limits;

/// Most header lines.
const HEADERS: usize = 64;
/// Most bytes of request line and headers.
const HEAD: usize = 32 << 10;

/// A request that was read.
#[derive(Debug)]
pub struct Request {
    /// In capitals.
    pub method: String,
    /// Without the query.
    pub path: String,
    headers: Vec<(String, String)>,
    /// The whole of it.
    pub body: Vec<u8>,
    /// The client wants the connection to stay.
    pub keeps: bool,
    /// The client speaks HTTP/1.1, and knows chunks.
    pub chunks: bool,
}

/// Why no request came.
#[derive(Debug)]
pub enum Fault {
    /// The client closed the connection, or it broke: nobody to tell.
    Gone,
    /// The client is told, and the connection closed.
    Refused(ApiError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => late(),
            _ => Fault::Gone,
        }
    }
}

fn late() -> Fault {
    Fault::Refused(ApiError::new(408, "the request did not come in time"))
}

fn refused(status: u16, why: &str) -> Fault {
    Fault::Refused(ApiError::new(status, why))
}

impl Request {
    /// The value of a header; its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The text that a part of a path stands for; none where it is not UTF-8.
pub fn percent_decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .filter(|hex| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let code = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).ok()
}

/// A connection and what was read of it ahead of use.
pub struct Reader {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Reader {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    /// The next request; an idle connection is waited for as long as `limits.idle`.
    pub fn next(&mut self, limits: &Limits) -> Result<Request, Fault> {
        if self.ahead.is_empty() {
            let idle = Instant::now() + limits.idle;
            match self.more(idle) {
                Err(Fault::Refused(_)) => return Err(Fault::Gone),
                other => other?,
            }
        }
        let due = Instant::now() + limits.head_time;
        let (mut request, length) = self.head(due)?;
        let due = Instant::now() + limits.body_time;
        if request
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
            && length != Length::None
        {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = match length {
            Length::None => Vec::new(),
            Length::Known(length) => self.take(length, limits.body, due)?,
            Length::Chunks => self.chunks(limits.body, due)?,
        };
        Ok(request)
    }

    fn head(&mut self, due: Instant) -> Result<(Request, Length), Fault> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS];
            let mut parsed = httparse::Request::new(&mut headers);
            let read = match parsed.parse(&self.ahead) {
                Ok(httparse::Status::Complete(read)) if read <= HEAD => read,
                Ok(httparse::Status::Partial) if self.ahead.len() < HEAD => {
                    self.more(due)?;
                    continue;
                }
                Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(refused(431, "the headers are too long")),
                Err(e) => return Err(refused(400, &format!("this is no HTTP request: {e}"))),
            };
            let request = understand(&parsed)?;
            let length = Length::of(&request)?;
            self.ahead.drain(..read);
            return Ok((request, length));
        }
    }

    /// Reads more, until `due` at the latest.
    fn more(&mut self, due: Instant) -> Result<(), Fault> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer)? {
            0 => Err(Fault::Gone),
            read => {
                self.ahead.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }

    fn take(&mut self, length: usize, most: usize, due: Instant) -> Result<Vec<u8>, Fault> {
        if length > most {
            return Err(too_large(most));
        }
        while self.ahead.len() < length {
            self.more(due)?;
        }
        let rest = self.ahead.split_off(length);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    fn chunks(&mut self, most: usize, due: Instant) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        loop {
            let (start, size) = loop {
                match httparse::parse_chunk_size(&self.ahead) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.ahead.len() < HEAD => self.more(due)?,
                    _ => return Err(refused(400, "the body is not in chunks as it says")),
                }
            };
            self.ahead.drain(..start);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size == 0 {
                return self.trailers(due).map(|()| body);
            }
            if size > most - body.len() {
                return Err(too_large(most));
            }
            body.extend(self.take(size, most, due)?);
            if self.take(2, 2, due)? != *b"\r\n" {
                return Err(refused(400, "a chunk of the body is longer than it says"));
            }
        }
    }

    /// Reads to the empty line behind the last chunk.
    fn trailers(&mut self, due: Instant) -> Result<(), Fault> {
        loop {
            let end = self.ahead.windows(2).position(|pair| pair == b"\r\n");
            match end {
                Some(at) => {
                    self.ahead.drain(..at + 2);
                    if at == 0 {
                        return Ok(());
                    }
                }
                None if self.ahead.len() < HEAD => self.more(due)?,
                None => return Err(refused(431, "the trailers are too long")),
            }
        }
    }
}

fn too_large(most: usize) -> Fault {
    Fault::Refused(ApiError::new(413, format!("the body is larger than {most} bytes")))
}

fn understand(parsed: &httparse::Request) -> Result<Request, Fault> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let headers = parsed.headers.iter();
    let headers: Vec<_> = headers
        .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
        .collect();
    let target = parsed.path.unwrap_or("/");
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or("/").to_owned(),
        headers,
        body: Vec::new(),
        keeps: false,
        chunks: parsed.version == Some(1),
    };
    let says = |word: &str| {
        let connection = request.header("connection").unwrap_or_default();
        connection.split(',').any(|said| said.trim().eq_ignore_ascii_case(word))
    };
    let keeps = if request.chunks {
        !says("close")
    } else {
        says("keep-alive")
    };
    Ok(Request { keeps, ..request })
}

/// How long a body is.
#[derive(Debug, PartialEq, Eq)]
enum Length {
    None,
    Known(usize),
    Chunks,
}

impl Length {
    /// Two answers to that question are none: proxies and servers that disagree let requests be smuggled.
    fn of(request: &Request) -> Result<Self, Fault> {
        let all = |name: &str| request.headers.iter().filter(|(own, _)| own == name).count();
        let (length, coding) = (request.header("content-length"), request.header("transfer-encoding"));
        match (length, coding) {
            _ if all("content-length") > 1 || all("transfer-encoding") > 1 => {
                Err(refused(400, "the length of the body is said twice"))
            }
            (Some(_), Some(_)) => Err(refused(400, "the body has both a length and a transfer coding")),
            (None, None) => Ok(Length::None),
            (Some(length), None) => match length.bytes().all(|b| b.is_ascii_digit()).then(|| length.parse()) {
                Some(Ok(0)) => Ok(Length::None),
                Some(Ok(length)) => Ok(Length::Known(length)),
                _ => Err(refused(400, "content-length is no number")),
            },
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunks),
            (None, Some(_)) => Err(refused(501, "the only transfer coding here is chunked")),
        }
    }
}
