//! Many requests at once: prompts with settings of their own, answered while others come and go.
//!
//! ```text
//! cargo run -p ft-infer --example engine [MODEL] [ADAPTER]      the embedded model without MODEL
//! ```

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use burn::tensor::Device;
use ft_data::Tokenizer;
use ft_infer::{Engine, EngineOptions, Event, Events, GenerationConfig, Request, RequestError};
use ft_model::{LoadDtype, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (embedded, mut args) = (tempfile::tempdir()?, std::env::args().skip(1));
    ft_embedded::unpack(embedded.path())?;
    let folder = args.next().map_or(embedded.path().into(), PathBuf::from);

    let tokenizer = Tokenizer::from_dir(&folder)?;
    let engine = Engine::start(
        Model::load(&folder, LoadDtype::F32, &Device::flex())?,
        EngineOptions::default(),
    )?;
    let adapter = args.next();
    if let Some(folder) = &adapter {
        engine.load_adapter("tuned", folder, false)?;
    }
    let config = GenerationConfig::greedy(20, tokenizer.eos_ids());
    let mut running = Vec::new();
    for prompt in ["Mara lives in", "The key of the house", "Once"] {
        let request = Request::new(tokenizer.encode(prompt, true)?, config.clone());
        running.push((prompt, engine.submit(request.clone())?));
        if adapter.is_some() {
            running.push((prompt, engine.submit(request.with_adapter("tuned"))?));
        }
    }
    // They are all worked on together, whoever is awaited first.
    block_on(async {
        for (prompt, events) in running {
            println!("{prompt}{}", answer(events, &tokenizer).await?);
        }
        Ok::<(), RequestError>(())
    })?;
    Ok(())
}

/// The text of a request, which comes token by token. Without `async`, `events.wait()` stands for `events.recv().await`.
async fn answer(mut events: Events, tokenizer: &Tokenizer) -> Result<String, RequestError> {
    let mut ids = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::End(how) => drop(how?),
            Event::Prompt(_) => {}
        }
    }
    Ok(tokenizer.decode(&ids, true))
}

/// The smallest of executors; the events need no other.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut context, mut future) = (Context::from_waker(&waker), pin!(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
