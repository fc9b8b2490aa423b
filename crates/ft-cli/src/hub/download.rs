//! Files over HTTP into the cache: what broke off goes on where it stopped, and nothing gets a name there before its size and checksum are
//! right.

use std::fs::{self, File as Disk, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use ring::digest;

use super::cache::Repo;
use super::listing::File;
use super::meter::Meter;
use super::name::{Kind, Name};
use super::settings::Settings;
use crate::failure::{Context, Failure};

/// Tries without a new byte, before it is given up.
const TRIES: u32 = 5;
/// Largest list of files that is read: some hundred thousand.
const MAX_ANSWER: u64 = 256 << 20;

/// The Hub.
pub(super) struct Web<'s> {
    agent: ureq::Agent,
    settings: &'s Settings,
}

impl<'s> Web<'s> {
    pub fn new(settings: &'s Settings) -> Self {
        let agent = ureq::AgentBuilder::new()
            .timeout_connect(Duration::from_secs(10))
            .timeout_read(Duration::from_secs(60))
            .redirects(10)
            // Large files lie on another server, which must not see the token.
            .redirect_auth_headers(ureq::RedirectAuthHeaders::SameHost)
            .user_agent(concat!("ft/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent, settings }
    }

    /// The answer to a request, from byte `from` on.
    fn get(&self, path: &str, from: u64) -> Result<ureq::Response, Trouble> {
        let url = format!("{}{path}", self.settings.endpoint);
        let mut request = self.agent.get(&url).set("Accept-Encoding", "identity");
        if let Some(token) = &self.settings.token {
            request = request.set("Authorization", &format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.set("Range", &format!("bytes={from}-"));
        }
        request.call().map_err(|e| match e {
            ureq::Error::Status(code, _) => Trouble::Refused(code),
            ureq::Error::Transport(e) => Trouble::Broken(e.to_string()),
        })
    }

    /// The body of a short answer.
    pub fn text(&self, path: &str) -> Result<Vec<u8>, Trouble> {
        let mut tried = 0;
        loop {
            let answer = self.get(path, 0).and_then(|answer| {
                let mut body = Vec::new();
                let read = answer.into_reader().take(MAX_ANSWER + 1).read_to_end(&mut body);
                read.map(|_| body).map_err(|e| Trouble::Broken(e.to_string()))
            });
            match answer {
                Ok(body) if body.len() as u64 <= MAX_ANSWER => return Ok(body),
                Ok(_) => return Err(Trouble::Broken("its list of files has no end".into())),
                Err(trouble) if trouble.may_pass() && tried < 2 => self.pause(&mut tried),
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Puts files of a commit into the cache, those that are not there.
    pub fn fetch(&self, name: &Name, commit: &str, files: &[File], repo: &Repo) -> Result<(), Failure> {
        let missing = files.iter().filter(|file| !repo.blob(&file.etag).is_file());
        let bytes = missing.clone().map(|file| file.size).sum();
        let mut meter = Meter::start(&format!("{name}, {} files", missing.count()), bytes);
        for file in files {
            let doing = || format!("{name}: {}", file.path);
            if !repo.blob(&file.etag).is_file() {
                self.blob(name, commit, file, repo, &mut meter).context(doing())?;
                meter.next(file.size);
            }
            repo.link(commit, &file.path, &file.etag)?;
        }
        meter.end();
        Ok(())
    }

    fn blob(&self, name: &Name, commit: &str, file: &File, repo: &Repo, meter: &mut Meter) -> Result<(), Failure> {
        let blob = repo.blob(&file.etag);
        let partial = blob.with_extension("incomplete");
        let _lock = lock(&repo.locks, &file.etag)?;
        if blob.is_file() {
            return Ok(());
        }
        if let Some(folder) = blob.parent() {
            fs::create_dir_all(folder)?;
        }
        let kind = if name.kind == Kind::Dataset { "/datasets" } else { "" };
        let path = format!("{kind}/{}/resolve/{commit}/{}", name.id, quoted(&file.path, "/"));
        // What lay there from an earlier run may be damaged: a wrong checksum is worth one more try from the beginning.
        for fresh in [false, true] {
            if fresh {
                fs::remove_file(&partial)?;
            }
            self.complete(name, &path, file, &partial, meter)?;
            if checksum(&partial, file)? == file.etag {
                Disk::open(&partial)?.sync_all()?;
                return Ok(fs::rename(&partial, &blob)?);
            }
        }
        fs::remove_file(&partial)?;
        Err(Failure::new(
            "the checksum is not the Hub's, twice; something on the way changes files (a proxy, HF_ENDPOINT?)",
        ))
    }

    /// Downloads until `partial` has the size that the Hub names.
    fn complete(&self, name: &Name, path: &str, file: &File, partial: &Path, meter: &mut Meter) -> Result<(), Failure> {
        let mut tried = 0;
        loop {
            let mut have = partial.metadata().map_or(0, |m| m.len());
            if have > file.size {
                fs::remove_file(partial)?;
                have = 0;
            }
            if have == file.size && partial.is_file() {
                return Ok(());
            }
            meter.at(have);
            match self.piece(path, file, partial, have, meter) {
                Ok(()) => {}
                Err(Trouble::Disk(e)) => return Err(e.into()),
                Err(trouble) if trouble.may_pass() => {
                    tracing::debug!("{}: {trouble:?}", file.path);
                    if matches!(trouble, Trouble::Refused(416)) {
                        fs::remove_file(partial)?;
                    }
                    let now = partial.metadata().map_or(0, |m| m.len());
                    if now > have {
                        tried = 0;
                    } else if tried == TRIES - 1 {
                        return Err(trouble.of(name, self.settings));
                    }
                    self.pause(&mut tried);
                }
                Err(trouble) => return Err(trouble.of(name, self.settings)),
            }
        }
    }

    /// One request, from byte `have` on; an error unless the file is whole then.
    fn piece(&self, path: &str, file: &File, partial: &Path, have: u64, meter: &mut Meter) -> Result<(), Trouble> {
        let answer = self.get(path, have)?;
        let start = match answer.status() {
            206 => first_byte(answer.header("Content-Range")),
            _ => Some(0),
        };
        let mut disk = OpenOptions::new().append(true).create(true).open(partial)?;
        match start {
            Some(start) if start == have => {}
            // The server does not go on where it was asked to.
            Some(0) => disk.set_len(0)?,
            _ => {
                disk.set_len(0)?;
                return Err(Trouble::Broken("an answer from another place of the file".into()));
            }
        }
        let mut at = start.unwrap_or(0);
        let mut body = answer.into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = body.read(&mut buffer).map_err(|e| Trouble::Broken(e.to_string()))?;
            if read == 0 && at < file.size {
                return Err(Trouble::Broken(format!("it ended after {at} of {} bytes", file.size)));
            }
            if read == 0 {
                return Ok(());
            }
            at += read as u64;
            if at > file.size {
                disk.set_len(0)?;
                return Err(Trouble::Broken(format!(
                    "more than the {} bytes that were announced",
                    file.size
                )));
            }
            disk.write_all(&buffer[..read])?;
            meter.at(at);
        }
    }

    fn pause(&self, tried: &mut u32) {
        std::thread::sleep(self.settings.pause * (1 << *tried));
        *tried += 1;
    }
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(u16),
    Broken(String),
    Disk(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Disk(error)
    }
}

impl Trouble {
    /// Whether it may be gone at the next try.
    pub fn may_pass(&self) -> bool {
        matches!(self, Trouble::Refused(408 | 416 | 429 | 500..) | Trouble::Broken(_))
    }

    pub fn of(self, name: &Name, settings: &Settings) -> Failure {
        let endpoint = &settings.endpoint;
        match self {
            Trouble::Refused(code @ (401 | 403)) => {
                let token = match settings.token {
                    Some(_) => "the token (HF_TOKEN) does not open it",
                    None => "it may be private, gated or misspelt: set HF_TOKEN",
                };
                let page = if name.kind == Kind::Dataset { "datasets/" } else { "" };
                Failure::new(format!(
                    "the Hub does not give out `{name}` (HTTP {code}): {token}, and accept its terms on {endpoint}/{page}{} where it has any",
                    name.id
                ))
            }
            Trouble::Refused(404) => Failure::new(format!(
                "the Hub has no `{name}` (HTTP 404 from {endpoint}); check the owner, the name and the revision"
            )),
            Trouble::Refused(code) => Failure::new(format!("{endpoint} answers HTTP {code}; try again later")),
            Trouble::Broken(what) => Failure::new(format!(
                "{endpoint} cannot be read ({what}); call again to go on where it stopped, or use --offline with what is in the cache"
            )),
            Trouble::Disk(error) => error.into(),
        }
    }
}

/// The first byte of `bytes 5-9/10`.
fn first_byte(range: Option<&str>) -> Option<u64> {
    range?
        .trim()
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// The lock that Python's library takes for the same file, so that the two do not write at once.
fn lock(folder: &Path, etag: &str) -> Result<Disk, Failure> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{etag}.lock"));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    file.lock().context(path.display())?;
    Ok(file)
}

/// Of the whole file, in the way that its name on the Hub was made.
fn checksum(path: &Path, file: &File) -> io::Result<String> {
    let mut context = match file.etag.len() {
        64 => digest::Context::new(&digest::SHA256),
        _ => {
            let mut git = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            git.update(format!("blob {}\0", file.size).as_bytes());
            git
        }
    };
    let (mut disk, mut buffer) = (Disk::open(path)?, vec![0; 1 << 20]);
    loop {
        match disk.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    Ok(context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A part of a URL; the characters in `kept` stay as they are.
pub(super) fn quoted(text: &str, kept: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        b if kept.as_bytes().contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}
