//! A running `ft serve` and a client that is as plain as can be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command;

/// What a body of JSON comes with.
pub const JSON: &str = "Content-Type: application/json\r\n";

/// The embedded model, served.
pub struct Server {
    child: Child,
    pub address: String,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    pub fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::begin("embedded:tiny", args, environment)
    }

    /// Another model, served.
    pub fn of(model: &str, args: &[&str]) -> Self {
        Self::begin(model, args, &[])
    }

    fn begin(model: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let all = [&["serve", model, "--port", "0", "--device", "cpu"], args].concat();
        let mut child = command(&all)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended: {said}");
            said += &line;
            if let Some(address) = line.trim().strip_prefix("listening on http://") {
                break address.to_owned();
            }
        };
        Self {
            child,
            address,
            stderr: Some(stderr),
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Sends a request; its answer can be read from what is returned.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = self.connect();
        let (length, host) = (body.len(), &self.address);
        let host = if headers.starts_with("Host:") {
            String::new()
        } else {
            format!("Host: {host}\r\n")
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Answer {
        Answer::read(self.send("GET", path, "", ""))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::read(self.send("POST", path, JSON, &body.to_string()))
    }

    /// The JSON of an answer that must succeed.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// The events of a stream that must succeed, without the last, which must be `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let answer = self.post(path, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let events: Vec<&str> = answer
            .body
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .collect();
        let (last, events) = events.split_last().expect("events");
        assert_eq!(*last, "[DONE]");
        events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }

    /// A figure of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until a figure is what is expected.
    pub fn wait(&self, name: &str, value: f64) {
        for _ in 0..1500 {
            if self.metric(name) == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{name} never became {value}: {}", self.get("/metrics").body);
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the end; the exit code and the rest of stderr.
    pub fn end(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Reads to the end of the connection; a status of 0 where it ended without an answer.
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A connection that breaks ends what there is to read.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let body = match head.contains("Transfer-Encoding: chunked") {
            true => unchunk(body),
            false => body.to_owned(),
        };
        Self { status, body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// An error in OpenAI's form: its parameter and code.
    pub fn error(&self, status: u16) -> (Value, Value) {
        assert_eq!(self.status, status, "{}", self.body);
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        (error["param"].clone(), error["code"].clone())
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        text += &rest[..size];
        body = &rest[size + 2..];
    }
    text
}

/// A completion of `tokens` tokens that no stop token ends.
pub fn completion(prompt: &str, tokens: usize) -> Value {
    json!({ "model": "embedded:tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true })
}
