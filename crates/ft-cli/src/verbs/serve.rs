//! `ft serve`: a model and its adapters behind the API that OpenAI's clients speak.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use ft_data::Tokenizer;
use ft_infer::{EmbeddingConfig, Engine, EngineOptions, GenerationConfig};
use ft_model::{Model, ModelConfig};
use ft_peft::Adapters;
use ft_serve::{Limits, Persona, Program, Server, Service, Settings};

use crate::args::{DeviceArg, NamedAdapter};
use crate::device::{self, Picked};
use crate::failure::{Context, Failure};
use crate::hub;
use crate::locate::{self, Located};
use crate::output;
use crate::signals::Stop;
use crate::weights::Weights;

/// Answer requests over HTTP, as OpenAI's API does
#[derive(clap::Args, Debug)]
pub struct Serve {
    /// Folder, run folder, or embedded:tiny; requests name it so
    #[arg(value_name = "MODEL")]
    model: String,
    /// Adapter of LoRA or of virtual tokens that requests can name (repeatable)
    #[arg(long, value_name = "NAME=DIR")]
    adapter: Vec<NamedAdapter>,
    /// Adapters in memory at once; those used longest ago leave, and are read again when a request names them
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    adapters_in_memory: u32,
    /// Address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// Environment variable with the key that clients must show
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// Folder of runs that the page shows, plans, starts and stops
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    #[command(flatten)]
    weights: Weights,
    /// Positions of the cache, over all requests
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    cache: usize,
    /// Tokens that a step may compute ahead where an answer repeats what stood before; 0 for none. Answers are the same
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().lookup_tokens)]
    lookup: usize,
    /// Requests that are worked on at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Requests that may wait
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// Most seconds for a request
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Seconds that requests at work get to end when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
    #[command(flatten)]
    device: DeviceArg,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        // Before anything that takes time, so that a signal is never met with the default behaviour once clients may be there.
        let stop = Stop::listen().context("cannot listen for signals")?;
        let key = self.key()?;
        let runs = self.runs()?;
        let mut located = locate::locate(&self.model, None)?;
        let embedding = EmbeddingConfig::from_dir(&located.checkpoint)?.unwrap_or_default();
        if !embedding.model.as_os_str().is_empty() {
            located.checkpoint = located.checkpoint.join(&embedding.model);
        }
        let picked = device::pick(self.device.device)?;
        let mut model = self.load(&located, &picked)?;
        let mut base = self.base(&located, &model)?;
        let mut alone = None;
        if let Some(folder) = located.adapter.clone()
            && goes_alone(&mut model, &folder)?
        {
            base = Persona::adapter(&base, &self.model, &folder).map_err(Failure::new)?;
            (base.adapter, located.adapter) = (None, None);
            let why = format!(
                "the model is one with the adapter in {}, and takes no other",
                folder.display()
            );
            alone = Some(why);
        }
        let engine = Engine::start(model, self.options()).context("cannot start the engine")?;
        let settings = Settings {
            loading: key.is_some() || self.is_local(),
            key,
            alone,
            embedding,
            request_time: Duration::from_secs(self.timeout),
            runs,
        };
        let service = Service::new(engine, base, settings);
        let own = located
            .adapter
            .iter()
            .map(|folder| (self.model.clone(), folder.clone()));
        let named = self
            .adapter
            .iter()
            .map(|named| (named.name.clone(), named.path.clone()));
        for (name, path) in own.chain(named) {
            let folder = locate::adapter_folder(&path)?;
            let loaded = service.load(&name, &folder, false).map_err(Failure::new);
            loaded.context(format!("cannot serve the adapter \"{name}\" in `{}`", folder.display()))?;
        }
        crate::allocator::give_back();
        self.listen(service, &stop)
    }

    fn listen(&self, service: Service, stop: &Stop) -> Result<(), Failure> {
        let at = format!("{}:{}", self.host, self.port);
        let server = Server::bind(&self.host, self.port, service).context(format!("cannot listen on {at}"))?;
        if !self.is_local() && self.api_key_env.is_none() {
            say("anybody who reaches this address can use the model; --api-key-env asks for a key\n");
        }
        let serving = server.start(Limits::default()).context("cannot start the server")?;
        say(&format!("listening on http://{}\n", serving.address()));
        let stopped = stop.flag();
        while !stopped.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        say("stopping; requests at work may end first\n");
        serving.shut_down(Duration::from_secs(self.grace));
        Ok(())
    }

    fn options(&self) -> EngineOptions {
        EngineOptions {
            sequences: self.batch,
            cache_positions: self.cache,
            queue: self.queue,
            adapters_in_memory: self.adapters_in_memory as usize,
            lookup_tokens: self.lookup,
            ..EngineOptions::default()
        }
    }

    /// Whether only this machine can connect.
    fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The folder of runs, and this program with the options that its runs get.
    fn runs(&self) -> Result<Option<(PathBuf, Program)>, Failure> {
        let Some(runs) = &self.runs else { return Ok(None) };
        if !runs.is_dir() {
            return Err(Failure::wrong_use(format!("--runs {}: no such folder", runs.display())));
        }
        let mut arguments = vec!["--device".into(), self.device.device.to_string()];
        arguments.extend(hub::is_forbidden().then(|| "--offline".into()));
        let program = Program {
            path: std::env::current_exe().context("cannot tell where this program lies")?,
            arguments,
            secret: self.api_key_env.clone(),
        };
        Ok(Some((runs.canonicalize().context(runs.display())?, program)))
    }

    fn key(&self) -> Result<Option<String>, Failure> {
        let Some(name) = &self.api_key_env else { return Ok(None) };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(key.trim().to_owned())),
            _ => Err(Failure::wrong_use(format!(
                "--api-key-env {name}: there is no key in ${name}"
            ))),
        }
    }

    fn load(&self, located: &Located, picked: &Picked) -> Result<Model, Failure> {
        let config = ModelConfig::from_dir(&located.checkpoint)?;
        let model = self.weights.load(config, located, None, picked)?;
        let config = model.config();
        // Keys and values in f32, or in the type of the activations.
        let width = if picked.is_cpu() { 4 } else { 2 };
        let row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width;
        let bytes = row.saturating_mul(self.cache) as u64;
        tracing::info!(
            "a cache of {} positions, {} when full",
            self.cache,
            output::bytes(bytes)
        );
        Ok(model)
    }

    /// The base as its clients meet it. Where MODEL is an adapter, its name is that of the adapter.
    fn base(&self, located: &Located, model: &Model) -> Result<Persona, Failure> {
        let folder: &PathBuf = &located.checkpoint;
        let tokenizer = Tokenizer::from_dir(folder)?;
        let settings = GenerationConfig::from_dir(folder, &model.config().eos_token_ids)?;
        let name = match located.adapter {
            None => self.model.clone(),
            Some(_) => folder.display().to_string(),
        };
        Ok(Persona::base(name, folder.clone(), tokenizer, settings))
    }
}

/// Puts the adapter in `folder` into the model for good if rows of one batch cannot choose it; whether it did.
fn goes_alone(model: &mut Model, folder: &Path) -> Result<bool, Failure> {
    const OWN: &str = "own";
    let mut adapters = Adapters::new(model);
    let put = format!("cannot put the adapter in `{}` on this model", folder.display());
    adapters.load(model, OWN, folder).context(put)?;
    let alone = model.virtual_tokens() == 0 && adapters.mix(model, &[OWN]).is_err();
    adapters.activate(model, alone.then_some(OWN))?;
    Ok(alone)
}

/// For people; a closed stderr leaves nobody to tell.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
