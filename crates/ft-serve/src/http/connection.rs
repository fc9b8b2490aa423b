//! One connection, from its first request to its last.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::http::request::{Fault, Reader};
use crate::http::{Reply, Request, Response};

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Time between two requests of a connection.
    pub idle: Duration,
    /// Time for request line and headers to come.
    pub head_time: Duration,
    /// Time for the body to come.
    pub body_time: Duration,
    /// Time for a piece of an answer to be taken.
    pub write_time: Duration,
    /// Connections at once.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            idle: Duration::from_secs(75),
            head_time: Duration::from_secs(20),
            body_time: Duration::from_secs(60),
            write_time: Duration::from_secs(30),
            connections: 1024,
        }
    }
}

/// Answers requests until the client has enough, misbehaves, or the server closes.
pub fn serve(stream: TcpStream, limits: &Limits, closing: &AtomicBool, answer: &dyn Fn(&Request, &mut Reply)) {
    let set = stream
        .set_write_timeout(Some(limits.write_time))
        .and(stream.set_nodelay(true));
    let Ok(reading) = set.and_then(|()| stream.try_clone()) else {
        return;
    };
    let mut reader = Reader::new(reading);
    loop {
        let request = match reader.next(limits) {
            Ok(request) => request,
            Err(Fault::Gone) => return,
            Err(Fault::Refused(error)) => {
                // Who is not there any more need not be told.
                let _ = Reply::new(&stream, true, false).send(Response::from(error));
                return drain(&stream);
            }
        };
        let keeps = request.keeps && !closing.load(Ordering::SeqCst);
        let mut reply = Reply::new(&stream, request.chunks, keeps);
        answer(&request, &mut reply);
        if reply.sent.is_none() || !reply.keeps() {
            return drain(&stream);
        }
    }
}

/// Closes our side and reads what is still on its way: closing with unread bytes would reset the connection before the client
/// has read the answer.
fn drain(mut stream: &TcpStream) {
    use std::io::Read;
    let begun = stream
        .shutdown(Shutdown::Write)
        .and(stream.set_read_timeout(Some(Duration::from_millis(200))));
    let mut buffer = [0; 16 << 10];
    // A client that goes on sending is cut off after 4 MiB.
    let mut left = 256;
    while begun.is_ok() && left > 0 && matches!(stream.read(&mut buffer), Ok(read) if read > 0) {
        left -= 1;
    }
}
