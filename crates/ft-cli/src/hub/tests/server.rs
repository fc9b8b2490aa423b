//! A server of files that plays pranks.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ring::digest;
use serde_json::json;

use super::COMMIT;

/// What the server does to the body of a file, once per entry; then it behaves.
#[derive(Clone, Copy, Debug)]
pub enum Prank {
    /// The connection ends after so many bytes of what was announced.
    BreakOff(usize),
    /// A shorter length is announced, and no more sent.
    Short(usize),
    /// More is announced and sent.
    Long,
    /// The right length, another body.
    Wrong,
    /// The range that was asked for is not heeded.
    WholeAgain,
    /// Another range than the one that was asked for.
    OtherRange,
    Status(u16),
    /// To another path of this server.
    Redirect,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    pranks: HashMap<String, Vec<Prank>>,
    /// Path and first byte of every request for a file, and whether it brought the token.
    log: Vec<(String, u64, bool)>,
    gone: bool,
}

impl Server {
    pub fn start(kind: &str, id: &str, files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let siblings: Vec<_> = files.iter().map(|(name, bytes)| sibling(name, bytes)).collect();
        let listing = json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes();
        let prefix = if kind == "datasets" { "/datasets" } else { "" };
        let mut state = State::default();
        state
            .files
            .insert(format!("/api/{kind}/{id}/revision/main?blobs=true"), listing);
        for (name, bytes) in files {
            let path = format!("{prefix}/{id}/resolve/{COMMIT}/{name}");
            state.files.insert(path, bytes.clone());
        }
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.lock().unwrap().gone {
                    return;
                }
                // A client that has enough closes the connection.
                let _ = answer(stream, &shared);
            }
        });
        Self { endpoint, state }
    }

    pub fn prank(&self, file: &str, pranks: &[Prank]) {
        let mut state = self.state.lock().unwrap();
        let path = state.files.keys().find(|path| is(path, file)).unwrap().clone();
        state.pranks.insert(path, pranks.iter().rev().copied().collect());
    }

    pub fn log(&self, file: &str) -> Vec<u64> {
        let state = self.state.lock().unwrap();
        let of = state.log.iter().filter(|(path, ..)| is(path, file));
        of.map(|(_, from, _)| *from).collect()
    }

    /// Whether every request for a file brought the token.
    pub fn saw_the_token(&self) -> bool {
        self.state.lock().unwrap().log.iter().all(|(.., token)| *token)
    }

    pub fn stop(&self) {
        self.state.lock().unwrap().gone = true;
        let _ = TcpStream::connect(self.endpoint.trim_start_matches("http://"));
    }
}

/// Whether a path is that of a file at the root of the repository, or of the list of files.
fn is(path: &str, file: &str) -> bool {
    path.ends_with(&format!("/{COMMIT}/{file}")) || path.ends_with(&format!("/revision/main{file}"))
}

fn sibling(name: &str, bytes: &[u8]) -> serde_json::Value {
    match name.ends_with(".safetensors") {
        true => {
            json!({"rfilename": name, "size": bytes.len(), "blobId": "0".repeat(40), "lfs": {"sha256": sha256(bytes), "size": bytes.len()}})
        }
        false => json!({"rfilename": name, "size": bytes.len(), "blobId": git(bytes)}),
    }
}

fn hex(digest: digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes))
}

fn git(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob))
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut from, mut token) = (String::new(), 0, false);
    reader.read_line(&mut line)?;
    let path = line
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .trim_start_matches("/moved")
        .to_owned();
    let moved = line.contains("/moved");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        let header = header.trim().to_lowercase();
        token |= header == "authorization: bearer secret";
        if let Some(range) = header.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
    }
    let (body, prank) = {
        let mut state = state.lock().unwrap();
        if !path.starts_with("/api") {
            state.log.push((path.clone(), from, token));
        }
        let prank = if moved {
            None
        } else {
            state.pranks.get_mut(&path).and_then(Vec::pop)
        };
        (state.files.get(&path).cloned(), prank)
    };
    let Some(body) = body else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if let Some(Prank::Status(code)) = prank {
        let head = format!("HTTP/1.1 {code} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return stream.write_all(head.as_bytes());
    }
    if let Some(Prank::Redirect) = prank {
        let head =
            format!("HTTP/1.1 302 Found\r\nLocation: /moved{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return stream.write_all(head.as_bytes());
    }
    let whole = body.len();
    let start = match prank {
        Some(Prank::WholeAgain) => 0,
        Some(Prank::OtherRange) => 1,
        _ => from as usize,
    };
    let mut piece = body[start.min(whole)..].to_vec();
    let mut announced = piece.len();
    match prank {
        Some(Prank::BreakOff(after)) => piece.truncate(after),
        Some(Prank::Short(length)) => {
            piece.truncate(length);
            announced = piece.len();
        }
        Some(Prank::Long) => {
            piece.extend(b"more");
            announced = piece.len();
        }
        Some(Prank::Wrong) => piece.iter_mut().for_each(|byte| *byte ^= 1),
        _ => {}
    }
    let status = match start {
        0 => "200 OK".to_owned(),
        start => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{whole}",
            whole - 1
        ),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&piece)
}
