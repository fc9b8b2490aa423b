//! A model and its adapters behind the API that OpenAI's clients speak.
//!
//! ```text
//!  http/      connections, requests, answers; knows no models
//!  routes/    one file per path: JSON in, JSON or events out
//!  persona    what a model's name means: adapter, tokenizer, chat template, settings
//!  page/      what `/` shows: one file of HTML, CSS and JavaScript
//!  runs       run folders that clients may watch
//!  draft, runner   configurations that clients make, and the processes that plan and train them
//!  response_format, tool_calls   answers that are JSON, and calls of tools in them
//!  answering  events of the engine as text, with stops, log probabilities and usage
//! ```
//!
//! HTTP/1.1 over blocking sockets, a thread for each connection: the work is done by the engine's thread, connections wait. TLS is
//! for a reverse proxy to add.

mod answering;
mod draft;
mod error;
mod fields;
mod http;
mod persona;
mod response_format;
mod routes;
mod runner;
mod runs;
mod sampling;
mod service;
mod tool_calls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use http::Limits;
pub use persona::Persona;
pub use runner::Program;
pub use service::{Service, Settings};

use http::{Listener, Running};

/// A socket that is bound and answers nobody yet.
pub struct Server {
    listener: Listener,
    service: Arc<Service>,
}

/// A server that answers.
pub struct Serving {
    running: Running,
    service: Arc<Service>,
}

impl Server {
    /// Binds `host` and `port`; port 0 takes a free one.
    ///
    /// # Errors
    /// An address that is no address of this machine, or in use.
    pub fn bind(host: &str, port: u16, service: Service) -> io::Result<Self> {
        Ok(Self {
            listener: Listener::bind(host, port)?,
            service: Arc::new(service),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.address()
    }

    /// Begins to answer, on threads of its own.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(self, limits: Limits) -> io::Result<Serving> {
        let Self { listener, service } = self;
        let shared = service.clone();
        let running = listener.start(limits, move |request, reply| shared.answer(request, reply))?;
        Ok(Serving { running, service })
    }
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// Accepts nothing more, lets requests that are being answered go on for `grace`, and ends the rest with an error. Runs that were
    /// started here are asked to save and end; one that takes longer than `grace` ends on its own.
    pub fn shut_down(self, grace: Duration) {
        self.running.close();
        self.service.stop();
        let end = Instant::now() + grace;
        self.service.engine().shut_down(grace);
        if let Ok(runner) = self.service.runner() {
            runner.wait(end.saturating_duration_since(Instant::now()));
        }
        // Everybody was told; this is for the last bytes on their way.
        let service = self.service;
        self.running.wait(Duration::from_secs(2), || service.busy() > 0);
    }
}
