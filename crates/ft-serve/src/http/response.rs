//! Answers on a connection: whole ones, and streams of server-sent events.

use std::io::{self, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::error::ApiError;

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Response {
    pub fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: value.to_string().into_bytes(),
        }
    }

    /// Status 200 and a page.
    pub fn html(text: String) -> Self {
        Self::of("text/html; charset=utf-8", text)
    }

    /// Status 200 and a plain text.
    pub fn text(text: String) -> Self {
        Self::of("text/plain; charset=utf-8", text)
    }

    /// Status 200 and a text in the format that Prometheus reads.
    pub fn metrics(text: String) -> Self {
        Self::of("text/plain; version=0.0.4; charset=utf-8", text)
    }

    fn of(content_type: &'static str, text: String) -> Self {
        Self {
            status: 200,
            content_type,
            body: text.into_bytes(),
        }
    }
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        Self::json(error.status, &error.body())
    }
}

/// Nothing is shown inside of another site's page, or taken for what it is not.
const ALONE: &str = "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: frame-ancestors 'none'\r\n";

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

/// Where the answer to one request goes.
pub struct Reply<'a> {
    stream: &'a TcpStream,
    /// The client knows chunks.
    chunks: bool,
    keeps: bool,
    /// Status of what was sent.
    pub sent: Option<u16>,
}

impl<'a> Reply<'a> {
    pub fn new(stream: &'a TcpStream, chunks: bool, keeps: bool) -> Self {
        Self {
            stream,
            chunks,
            keeps,
            sent: None,
        }
    }

    /// Whether another request may follow.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    pub fn send(&mut self, response: Response) -> io::Result<()> {
        let Response {
            status,
            content_type,
            body,
        } = response;
        self.sent = Some(status);
        let connection = if self.keeps { "keep-alive" } else { "close" };
        let retry = if matches!(status, 429 | 503) {
            "Retry-After: 1\r\n"
        } else {
            ""
        };
        let mut bytes = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{ALONE}{retry}Connection: {connection}\r\n\r\n",
            reason(status),
            body.len()
        )
        .into_bytes();
        bytes.extend(body);
        self.stream.write_all(&bytes)
    }

    /// Begins a stream of events.
    pub fn begin_events(&mut self) -> io::Result<()> {
        self.sent = Some(200);
        // Without chunks the end of the stream is the end of the connection.
        self.keeps &= self.chunks;
        let coding = if self.chunks {
            "Transfer-Encoding: chunked\r\n"
        } else {
            ""
        };
        let connection = if self.keeps { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n\
             X-Accel-Buffering: no\r\n{coding}Connection: {connection}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes())
    }

    pub fn event(&mut self, data: &str) -> io::Result<()> {
        let event = format!("data: {data}\n\n");
        match self.chunks {
            true => self
                .stream
                .write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()),
            false => self.stream.write_all(event.as_bytes()),
        }
    }

    pub fn end_events(&mut self) -> io::Result<()> {
        match self.chunks {
            true => self.stream.write_all(b"0\r\n\r\n"),
            false => Ok(()),
        }
    }

    /// The other end of the connection.
    pub fn client(&self) -> Client<'a> {
        Client(self.stream)
    }
}

/// The other end of a connection.
#[derive(Clone, Copy)]
pub struct Client<'a>(&'a TcpStream);

impl Client<'_> {
    /// Whether the client is still there, as far as the connection says: one that has closed its side has gone.
    pub fn listens(&self) -> bool {
        let peek = || {
            self.0.set_nonblocking(true)?;
            let seen = self.0.peek(&mut [0]);
            self.0.set_nonblocking(false)?;
            seen
        };
        match peek() {
            Ok(bytes) => bytes > 0,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
