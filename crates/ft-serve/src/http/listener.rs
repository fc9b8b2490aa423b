//! Accepts connections and gives each a thread.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::ApiError;
use crate::http::connection::{Limits, serve};
use crate::http::{Reply, Request, Response};

/// Stack of a connection's thread; only what is touched takes memory.
const STACK: usize = 2 << 20;

/// A bound socket.
pub struct Listener(TcpListener);

/// A server at work.
pub struct Running {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Listener {
    pub fn bind(host: &str, port: u16) -> io::Result<Self> {
        TcpListener::bind((host, port)).map(Self)
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers requests with `answer`, on threads.
    pub fn start(
        self,
        limits: Limits,
        answer: impl Fn(&Request, &mut Reply) + Send + Sync + 'static,
    ) -> io::Result<Running> {
        let (address, closing, open) = (
            self.address()?,
            Arc::<AtomicBool>::default(),
            Arc::<AtomicUsize>::default(),
        );
        let accept = Accept {
            limits,
            closing: closing.clone(),
            open: open.clone(),
            answer: Arc::new(answer),
        };
        let accepting = thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept.run(&self.0))?;
        Ok(Running {
            address,
            closing,
            open,
            accepting,
        })
    }
}

type Answer = Arc<dyn Fn(&Request, &mut Reply) + Send + Sync>;

struct Accept {
    limits: Limits,
    closing: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    answer: Answer,
}

/// A connection that counts.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Accept {
    fn run(&self, listener: &TcpListener) {
        while !self.closing.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok(_) if self.closing.load(Ordering::SeqCst) => return,
                Ok((stream, _)) => self.take(stream),
                // No file or memory left for the moment, or a client that was gone before it was accepted.
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn take(&self, stream: TcpStream) {
        let before = self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(self.open.clone());
        if before >= self.limits.connections {
            return turn_away(&stream);
        }
        let (limits, closing, answer) = (self.limits, self.closing.clone(), self.answer.clone());
        let work = move || {
            let _open = open;
            serve(stream, &limits, &closing, &*answer);
        };
        let started = thread::Builder::new()
            .name("client".into())
            .stack_size(STACK)
            .spawn(work);
        if let Err(e) = started {
            tracing::warn!("no thread for a connection: {e}");
        }
    }
}

fn turn_away(stream: &TcpStream) {
    let error = ApiError::new(503, "too many connections are open; try again later");
    // A client that does not read must not hold up the others.
    let _ = stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .and_then(|()| Reply::new(stream, true, false).send(Response::from(error)));
}

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more. Requests that are being answered go on.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; where that fails, it has ended.
        let mut own = self.address;
        if own.ip().is_unspecified() {
            own.set_ip(match own {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let _ = TcpStream::connect_timeout(&own, Duration::from_secs(1));
    }

    /// Waits for connections that are open, `limit` at most. Idle ones are not waited for longer than their next request: whoever
    /// calls this ends the process next.
    pub fn wait(self, limit: Duration, busy: impl Fn() -> bool) {
        let end = Instant::now() + limit;
        while Instant::now() < end && self.open.load(Ordering::SeqCst) > 0 && busy() {
            thread::sleep(Duration::from_millis(10));
        }
        if self.accepting.is_finished() && self.accepting.join().is_err() {
            tracing::warn!("the thread that accepts connections ended early");
        }
    }
}
