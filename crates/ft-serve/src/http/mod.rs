//! HTTP/1.1 on threads: a connection is a thread, which reads a request, answers it and reads the next.

mod connection;
mod listener;
mod request;
mod response;

pub use connection::Limits;
pub use listener::{Listener, Running};
pub use request::{Request, percent_decoded};
pub use response::{Client, Reply, Response};
