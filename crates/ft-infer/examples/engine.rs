//! Many requests at once: prompts with settings of their own, answered while others come and go.
//!
//! ```text
//! cargo run -p ft-infer --example engine [MODEL] [ADAPTER]      the embedded model without MODEL
//! ```

use std::path::PathBuf;

use burn::tensor::Device;
use ft_data::Tokenizer;
use ft_infer::{Engine, EngineOptions, Event, GenerationConfig, Request};
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
    // `events.recv().await` does the same in asynchronous code.
    for (prompt, mut events) in running {
        let mut ids = Vec::new();
        while let Some(event) = events.wait() {
            match event {
                Event::Token { id, .. } => ids.push(id),
                Event::End(how) => println!("{prompt}{} ({:?})", tokenizer.decode(&ids, true), how?),
                Event::Prompt(_) => {}
            }
        }
    }
    Ok(())
}
