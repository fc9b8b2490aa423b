//! Fine-tunes with the crates alone, without a configuration file: a checkpoint, LoRA, ten steps on texts given here, a PEFT folder.
//!
//! ```text
//! cargo run -p ft-train --example finetune [MODEL] [OUT]      MODEL: a folder in Hugging Face layout; the embedded one without it
//! ```

use std::path::PathBuf;

use burn::tensor::Device;
use ft_data::{Batch, Sample, Tokenizer};
use ft_model::{LoadDtype, Model};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{PeftConfig, adapter, attach};
use ft_train::{MethodHook, MicroBatch, StepBatch, TrainModel};

const TEXTS: [&str; 3] = [
    "Mara lives in Branford.",
    "Tom lives in Branford too.",
    "The key of the barn costs two coins.",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (embedded, mut args) = (tempfile::tempdir()?, std::env::args().skip(1).map(PathBuf::from));
    ft_embedded::unpack(embedded.path())?;
    let folder = args.next().unwrap_or(embedded.path().into());
    let out = args.next().unwrap_or(embedded.path().join("adapter"));

    let tokenizer = Tokenizer::from_dir(&folder)?;
    let mut model = Model::load(&folder, LoadDtype::F32, &Device::flex().autodiff())?;
    let lora = PeftConfig::default();
    attach(&mut model, &lora, 42)?;

    let sample = |text: &str| {
        tokenizer
            .encode(text, true)
            .map(|ids| Sample::new(ids.clone(), vec![true; ids.len()]))
    };
    let samples: Vec<Sample> = TEXTS.iter().map(|text| sample(text)).collect::<Result<_, _>>()?;
    let batch = Batch::new(&samples.iter().collect::<Vec<_>>(), tokenizer.padding(), 1);
    let (mut train, mut hook) = (TrainModel::new(model), MethodHook::of(&lora));
    let mut optim = Optim::new(&OptimConfig::default())?;
    for step in 0..10 {
        let micro = MicroBatch {
            batch: batch.clone(),
            dropout_seed: step as u64,
        };
        let batch = StepBatch::new(step, vec![micro]);
        let gradients = train
            .step_gradients(&mut hook, &batch, Some(1.0), &|| true)?
            .expect("nobody stops it");
        println!("step {step}: loss {:.4}", gradients.item.mean_loss()?);
        train.model = optim.step(5e-3, train.model, gradients.grads);
    }
    adapter::save(&out, &mut train.model, &lora, &folder.to_string_lossy())?;
    println!("{}", out.display());
    Ok(())
}
