//! Generates with the crates alone: a checkpoint, with an adapter where one is given, and a prompt.
//!
//! ```text
//! cargo run -p ft-infer --example generate [PROMPT] [MODEL] [ADAPTER]      the embedded model without MODEL
//! ```

use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::Device;
use ft_data::Tokenizer;
use ft_infer::{GenerationConfig, generate};
use ft_model::{LoadDtype, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (embedded, mut args) = (tempfile::tempdir()?, std::env::args().skip(1));
    ft_embedded::unpack(embedded.path())?;
    let prompt = args.next().unwrap_or("Mara lives in".into());
    let folder = args.next().map_or(embedded.path().into(), PathBuf::from);

    let tokenizer = Tokenizer::from_dir(&folder)?;
    let mut model = Model::load(&folder, LoadDtype::F32, &Device::flex())?;
    if let Some(adapter) = args.next() {
        ft_peft::adapter::load(adapter.as_ref(), &mut model)?;
    }
    let config = GenerationConfig {
        max_new_tokens: 20,
        eos_token_id: tokenizer.eos_ids().to_vec(),
        ..GenerationConfig::default()
    };
    let prompt = tokenizer.encode(&prompt, true)?;
    let answers = generate(&model, &[prompt], &config, &mut |_| ControlFlow::Continue(()))?;
    println!("{}", tokenizer.decode(answers[0].content(), true));
    Ok(())
}
