//! Many requests at once over one model: they join and leave between two forward passes, each with the adapter it names.
//!
//! ```text
//!  submit ─▶ queue ─▶ ┌ worker thread, with the model and its adapters ──────────────┐
//!                     │  ┌ scheduler ────────────────────────────────────────────┐    │
//!                     │  │ admit (cache for the prompt?)                         │    │
//!  generate ──────────┼─▶│ one step: every decoding row + pieces of prompts      │────┼──▶ Events of each request
//!  (its own scheduler,│  │   products together, attention over each one's cache  │    │
//!   a lent model)     │  │ choose tokens; those that have ended leave            │    │
//!                     │  └───────────────────────────────────────────────────────┘    │
//!                     └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! The cache is a budget of positions, taken in pieces of 128. A request is admitted when its prompt fits. Where rows that grow
//! use the budget up, the one that came last gives its cache back and computes it again when there is room. What is free of the
//! budget keeps the caches of ended requests, for those that begin with the same tokens under the same adapter.
//!
//! Where an answer repeats what stood before, several tokens are computed in one step and kept as far as they are what the model
//! says ([`EngineOptions::lookup_tokens`]).
//!
//! On the CPU a row's numbers do not depend on what else a step computes ([`ft_kernels::row_invariant`]): greedy and seeded answers
//! are the same bits alone, among others, and after a preemption.

mod adapter_files;
mod adapters;
mod embeddings;
pub(crate) mod events;
mod logits;
mod lookup;
mod prefixes;
mod request;
pub(crate) mod scheduler;
mod scores;
pub(crate) mod sequence;
pub(crate) mod stats;
pub(crate) mod whose;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ft_model::{KvCache, Model};

pub use adapters::AdapterInfo;
pub use events::{Elapsed, Event, Events};
pub use request::{Request, RequestError};
pub use scores::TokenScore;
pub use stats::Stats;

use adapters::Names;
use embeddings::Texts;
use sequence::Sequence;
use stats::Counters;
use whose::Whose;
use worker::Worker;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests that are worked on at once.
    pub sequences: usize,
    /// Positions of the cache, over all requests; rounded up to a multiple of 128.
    pub cache_positions: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Tokens of prompts that a step reads beside the rows that decode: fewer keep decoding even, more read prompts faster.
    pub prompt_tokens: usize,
    /// Tokens of a request that a step may compute ahead of what is chosen, where the text repeats what it said before; 0 for none.
    /// Answers are the same with and without. Only steps of few rows do it, whose time is that of reading the weights.
    pub lookup_tokens: usize,
    /// Adapters that may be loaded, dropped ones included for as long as requests run with them.
    pub adapters: usize,
    /// Of these, those in memory at once; the others are read from their folders when requests name them.
    pub adapters_in_memory: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            sequences: 64,
            cache_positions: 32_768,
            queue: 256,
            prompt_tokens: 256,
            lookup_tokens: 7,
            adapters: 4096,
            adapters_in_memory: 256,
        }
    }
}

/// What the worker is sent.
enum Command {
    Run(Box<Sequence>),
    Embed(Box<Texts>),
    Load {
        name: String,
        folder: PathBuf,
        replace: bool,
        answer: mpsc::Sender<Result<AdapterInfo, String>>,
    },
    Unload {
        name: String,
        answer: mpsc::Sender<Result<(), String>>,
    },
    /// Look at the clock and the flags.
    Wake,
}

/// A model that works on requests, on a thread of its own. Cheap to clone; the last clone that is dropped ends it.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    worker: Mutex<Option<JoinHandle<()>>>,
    state: Arc<State>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.state.options)
            .finish_non_exhaustive()
    }
}

/// What both sides see.
struct State {
    options: EngineOptions,
    vocab: usize,
    layers: usize,
    width: usize,
    positions: usize,
    /// Whether the model writes text.
    writes: bool,
    names: Arc<Names>,
    counters: Arc<Counters>,
    closing: AtomicBool,
    /// When everything that still runs is given up.
    give_up: Mutex<Option<Instant>>,
}

impl Engine {
    /// Starts a worker that owns `model`, which has no adapter in it and lies on a plain device.
    ///
    /// # Errors
    /// When the system has no thread left, or a size is 0.
    pub fn start(model: Model, options: EngineOptions) -> std::io::Result<Self> {
        let EngineOptions {
            sequences,
            cache_positions,
            queue,
            prompt_tokens,
            adapters_in_memory,
            ..
        } = options;
        if [sequences, cache_positions, queue, prompt_tokens, adapters_in_memory].contains(&0) {
            let why = format!("an engine needs sizes of at least 1, not {options:?}");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
        }
        let options = EngineOptions {
            cache_positions: KvCache::room(cache_positions),
            ..options
        };
        let state = Arc::new(State {
            options,
            vocab: model.config().vocab_size,
            layers: model.config().num_hidden_layers,
            width: model.config().hidden_size,
            positions: model.positions(),
            writes: model.writes(),
            names: Arc::default(),
            counters: Arc::default(),
            closing: AtomicBool::new(false),
            give_up: Mutex::new(None),
        });
        state.counters.cache_positions.set(options.cache_positions as u64);
        let (commands, received) = mpsc::channel();
        let shared = state.clone();
        let worker = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || Worker::new(model, shared, received).run())?;
        Ok(Self(Arc::new(Inner {
            commands,
            worker: Mutex::new(Some(worker)),
            state,
        })))
    }

    /// Hands a request over; its events come on what is returned.
    ///
    /// # Errors
    /// A full queue, an engine that closes, an unknown adapter, settings or a prompt that cannot be, a prompt and answer that
    /// could never fit.
    pub fn submit(&self, request: Request) -> Result<Events, RequestError> {
        let state = &self.0.state;
        if state.closing.load(Ordering::SeqCst) {
            return Err(RequestError::Closing);
        }
        if !state.writes {
            return Err(RequestError::Invalid(
                "the model writes no text; it makes vectors of texts".into(),
            ));
        }
        let adapter = self.adapter(request.adapter.as_deref())?;
        let before = adapter.as_ref().map_or(0, |info| info.virtual_tokens);
        let [limit, positions] = [self.limit(), state.positions].map(|most| most.saturating_sub(before));
        request::check(&request, state.vocab, limit, positions)?;
        let (sender, events) = events::channel();
        let whose = adapter.map_or_else(Whose::default, Whose::loaded);
        let sequence = Sequence::new(request, whose, sender, state.layers);
        if !state.counters.waiting.enter(state.options.queue as u64) {
            return Err(RequestError::Full(state.options.queue));
        }
        let sent = self.0.commands.send(Command::Run(Box::new(sequence)));
        match sent {
            Ok(()) => Ok(events),
            Err(_) => {
                state.counters.waiting.leave();
                Err(RequestError::Closing)
            }
        }
    }

    fn adapter(&self, name: Option<&str>) -> Result<Option<Arc<AdapterInfo>>, RequestError> {
        name.map(|name| self.0.state.names.find(name)).transpose()
    }

    /// Whether the model writes text; one that does not makes vectors alone.
    pub fn writes(&self) -> bool {
        self.0.state.writes
    }

    /// Most tokens of a prompt and its answer together, virtual tokens of an adapter included.
    pub fn limit(&self) -> usize {
        self.0.state.positions.min(self.0.state.options.cache_positions)
    }

    /// [`limit`](Self::limit) without the virtual tokens of an adapter.
    pub fn limit_with(&self, adapter: Option<&str>) -> usize {
        let info = self.adapter(adapter).ok().flatten();
        self.limit().saturating_sub(info.map_or(0, |info| info.virtual_tokens))
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.0.state.vocab
    }

    /// Reads an adapter in PEFT layout, of LoRA matrices or of virtual tokens, and calls it `name`. With `replace`, it takes the place of one of that name, with
    /// which requests that run go on. Waits until the worker has it: decoding stands still while the file is read.
    ///
    /// # Errors
    /// A name that is taken, an adapter that is not for this model or cannot differ from row to row, too many adapters.
    pub fn load_adapter(&self, name: &str, folder: impl Into<PathBuf>, replace: bool) -> Result<AdapterInfo, String> {
        let (name, folder) = (name.to_string(), folder.into());
        self.ask(|answer| Command::Load {
            name,
            folder,
            replace,
            answer,
        })
    }

    /// Takes the name of an adapter away. Its memory is free once no request runs with it.
    ///
    /// # Errors
    /// An unknown name.
    pub fn unload_adapter(&self, name: &str) -> Result<(), String> {
        let name = name.to_string();
        self.ask(|answer| Command::Unload { name, answer })
    }

    /// The adapters that requests can name.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.0.state.names.list()
    }

    /// Figures of the moment.
    pub fn stats(&self) -> Stats {
        self.0.state.counters.read()
    }

    /// Takes no more requests, lets those at work go on for `grace`, ends the rest with [`RequestError::Closing`], and returns
    /// when the worker has ended.
    pub fn shut_down(&self, grace: Duration) {
        self.0.shut_down(grace);
    }

    fn ask<T>(&self, command: impl FnOnce(mpsc::Sender<Result<T, String>>) -> Command) -> Result<T, String> {
        let closing = || RequestError::Closing.to_string();
        let (answer, answered) = mpsc::channel();
        self.0.commands.send(command(answer)).map_err(|_| closing())?;
        answered.recv().map_err(|_| closing())?
    }
}

impl Inner {
    fn shut_down(&self, grace: Duration) {
        let end = Instant::now() + grace;
        *self.state.give_up.lock().unwrap_or_else(|p| p.into_inner()) = Some(end);
        self.state.closing.store(true, Ordering::SeqCst);
        // A worker that has ended already needs no waking.
        let _ = self.commands.send(Command::Wake);
        let worker = self.worker.lock().unwrap_or_else(|p| p.into_inner()).take();
        if let Some(worker) = worker
            && worker.join().is_err()
        {
            // It catches what panics in a step; the hook has said why.
            self.state.counters.running.set(0);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shut_down(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;
