//! What requests meet: who may ask, which model is meant, which route answers.

use std::hint::black_box;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ft_infer::{EmbeddingConfig, Engine};

use crate::error::ApiError;
use crate::http::{Reply, Request, Response};
use crate::persona::Persona;
use crate::routes;
use crate::runner::{Program, Runner};

/// What is to be decided about a service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What clients must show in `Authorization: Bearer ..`; `None` lets everybody in.
    pub key: Option<String>,
    /// Clients may have adapters loaded from folders of this machine.
    pub loading: bool,
    /// Why no adapter can be named beside the model, where none can.
    pub alone: Option<String>,
    /// How vectors are made of texts.
    pub embedding: EmbeddingConfig,
    /// Most time for a request.
    pub request_time: Duration,
    /// The folder with runs that clients may watch and start, an absolute path, and the program that makes them.
    pub runs: Option<(PathBuf, Program)>,
}

/// A model, its adapters and the rules.
pub struct Service {
    engine: Engine,
    settings: Settings,
    runner: Option<Runner>,
    /// The base is the first.
    personas: RwLock<Vec<Arc<Persona>>>,
    pub(crate) created: u64,
    numbers: AtomicU64,
    busy: AtomicU64,
    stopping: AtomicBool,
    /// Responses by the first digit of their status.
    statuses: [AtomicU64; 6],
}

impl Service {
    /// A service with the base model alone.
    pub fn new(engine: Engine, base: Persona, mut settings: Settings) -> Self {
        let runs = settings.runs.take();
        Self {
            engine,
            settings,
            runner: runs.map(|(folder, program)| Runner::new(folder, program)),
            personas: RwLock::new(vec![Arc::new(base)]),
            created: unix_time(),
            numbers: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            statuses: Default::default(),
        }
    }

    /// Reads the adapter in `folder` (or in its `final/`) and gives it a name.
    ///
    /// # Errors
    /// A name that is taken; an adapter that is not for the base, or that cannot differ from row to row; files that cannot be read.
    pub fn load(&self, name: &str, folder: &Path, replace: bool) -> Result<(), String> {
        let base = self.base();
        if let Some(why) = &self.settings.alone {
            return Err(why.clone());
        }
        if name.is_empty() || name == base.name {
            return Err(format!("\"{name}\" cannot be the name of an adapter"));
        }
        let folder = adapter_folder(folder)?;
        let persona = Persona::adapter(&base, name, &folder)?;
        self.engine.load_adapter(name, folder, replace)?;
        self.edit(|personas| {
            personas.retain(|own| own.name != name);
            personas.push(Arc::new(persona));
        });
        Ok(())
    }

    pub(crate) fn unload(&self, name: &str) -> Result<(), String> {
        self.engine.unload_adapter(name)?;
        self.edit(|personas| personas.retain(|own| own.adapter.as_deref() != Some(name)));
        Ok(())
    }

    fn edit(&self, edit: impl FnOnce(&mut Vec<Arc<Persona>>)) {
        edit(&mut self.personas.write().unwrap_or_else(|p| p.into_inner()));
    }

    /// The base and the adapters.
    pub(crate) fn personas(&self) -> Vec<Arc<Persona>> {
        self.personas.read().unwrap_or_else(|p| p.into_inner()).clone()
    }

    pub(crate) fn base(&self) -> Arc<Persona> {
        self.personas().swap_remove(0)
    }

    pub(crate) fn persona(&self, name: &str) -> Result<Arc<Persona>, ApiError> {
        let personas = self.personas();
        let names = || personas.iter().map(|own| own.name.clone()).collect::<Vec<_>>();
        let found = personas.iter().find(|own| own.name == name);
        found.cloned().ok_or_else(|| ApiError::unknown_model(name, &names()))
    }

    /// Refuses what a model that writes no text cannot do.
    pub(crate) fn must_write(&self) -> Result<(), ApiError> {
        match self.engine.writes() {
            true => Ok(()),
            false => {
                let error = ApiError::new(400, "this model writes no text: ask /v1/embeddings for vectors");
                Err(error.with_param("model").with_code("model_not_supported"))
            }
        }
    }

    /// The engine that does the work.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The runs that clients may see.
    pub(crate) fn runner(&self) -> Result<&Runner, ApiError> {
        let none = || ApiError::new(404, "this server shows no runs; `ft serve --runs DIR` does");
        self.runner.as_ref().ok_or_else(none)
    }

    /// Whether a request may have this machine read files or start programs.
    pub(crate) fn trusts(&self, request: &Request) -> Result<(), ApiError> {
        let refused = |why: &str| Err(ApiError::new(403, why));
        if !self.settings.loading {
            return refused(
                "this is for clients of this machine, or for those who show a key; start the server with --api-key-env",
            );
        }
        // A name that somebody has pointed at this machine would pass for the server's own.
        if self.settings.key.is_none() && !request.header("host").is_some_and(is_this_machine) {
            return refused("without an API key, ask for localhost or 127.0.0.1");
        }
        match request.header("sec-fetch-site") {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) => refused("another site's page may not ask for this"),
        }
    }

    /// A name for an answer that no other has.
    pub(crate) fn number(&self, kind: &str) -> String {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{:x}{number:08x}", self.created)
    }

    /// Requests that are being answered.
    pub(crate) fn busy(&self) -> u64 {
        self.busy.load(Ordering::SeqCst)
    }

    /// Answers without an end of their own end now, and runs that were started here save and end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(runner) = &self.runner {
            runner.stop_all();
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Responses so far whose status begins with this digit.
    pub(crate) fn responses(&self, digit: usize) -> u64 {
        self.statuses
            .get(digit)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn answer(&self, request: &Request, reply: &mut Reply) {
        struct Busy<'a>(&'a AtomicU64);
        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.busy.fetch_add(1, Ordering::SeqCst);
        let _busy = Busy(&self.busy);
        let answered = catch_unwind(AssertUnwindSafe(|| self.route(request, reply)));
        let answered =
            answered.unwrap_or_else(|_| Err(ApiError::new(500, "internal error; the server's log has more")));
        if let Err(error) = answered
            && reply.sent.is_none()
        {
            // A client that has gone is not told.
            let _ = reply.send(Response::from(error));
        }
        let status = reply.sent.unwrap_or(0);
        tracing::debug!("{} {} {status}", request.method, request.path);
        if let Some(count) = self.statuses.get(usize::from(status / 100)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn route(&self, request: &Request, reply: &mut Reply) -> Result<(), ApiError> {
        let route = routes::find(&request.method, &request.path)?;
        if !route.open {
            self.admit(request)?;
        }
        (route.run)(self, request, reply)
    }

    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let Some(key) = &self.settings.key else {
            return same_origin(request);
        };
        let shown = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        match shown.is_some_and(|shown| same(shown.as_bytes(), key.as_bytes())) {
            true => Ok(()),
            false => Err(
                ApiError::new(401, "a valid API key is needed: Authorization: Bearer KEY").with_code("invalid_api_key"),
            ),
        }
    }
}

/// Without a key, a page of another site must not reach a server on its visitor's machine.
fn same_origin(request: &Request) -> Result<(), ApiError> {
    let host = |origin: &str| origin.split_once("://").map(|(_, host)| host.to_owned());
    match request.header("origin").map(host) {
        None => Ok(()),
        Some(origin) if origin.as_deref() == request.header("host") => Ok(()),
        Some(_) => Err(ApiError::new(
            403,
            "pages of other origins may not ask a server without an API key",
        )),
    }
}

/// Whether a `Host` header names this machine and nothing else.
fn is_this_machine(host: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if digits(port) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether two texts are equal, in a time that depends on the length of the first alone.
fn same(shown: &[u8], key: &[u8]) -> bool {
    if key.is_empty() {
        return shown.is_empty();
    }
    let mut difference = shown.len() ^ key.len();
    for (i, byte) in shown.iter().enumerate() {
        difference |= usize::from(byte ^ key[i % key.len()]);
    }
    black_box(difference) == 0
}

fn adapter_folder(folder: &Path) -> Result<PathBuf, String> {
    let candidates = [folder.to_path_buf(), folder.join("final")];
    let found = candidates
        .into_iter()
        .find(|own| own.join("adapter_config.json").is_file());
    found.ok_or_else(|| format!("there is no adapter_config.json in {}", folder.display()))
}

pub(crate) fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_few_names() {
        for own in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]:8000",
            "[::1]",
        ] {
            assert!(is_this_machine(own), "{own}");
        }
        for other in [
            "",
            ":80",
            "localhost.example",
            "example.com:80",
            "10.0.0.1",
            "[::2]:80",
            "127.0.0.1.example",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }

    #[test]
    fn keys_are_equal_or_not() {
        assert!(same(b"secret", b"secret"));
        for wrong in ["", "secre", "secret ", "Secret", "secretsecret"] {
            assert!(!same(wrong.as_bytes(), b"secret"), "{wrong}");
        }
    }
}
