//! What `ft plan` says of a step of the benchmark.

use std::fs;

use ft_train::plan::Bytes;
use ft_train::{DeviceTraits, PlanSummary, RunConfig};

use crate::step::Args;
use crate::words;

/// Plans a run of the same model on samples that fill the same batches; no weight is there or looked at.
pub fn of(args: &Args) -> Result<Bytes, String> {
    let dir = std::env::temp_dir().join(format!("ft-step-{}", std::process::id()));
    let bytes = in_folder(args, &dir);
    let _ = fs::remove_dir_all(&dir);
    bytes
}

fn in_folder(args: &Args, dir: &std::path::Path) -> Result<Bytes, String> {
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut config = args.dims.config(args.seq);
    config["dtype"] = if args.dtype.name() == "bf16" {
        "bfloat16"
    } else {
        "float32"
    }
    .into();
    fs::write(dir.join("config.json"), config.to_string()).map_err(|e| e.to_string())?;
    words::tokenizer(dir);
    words::data(&dir.join("train.jsonl"), 2 * args.batch, args.seq, false);
    let run = dir.join("run.toml");
    let text = format!(
        "[model]\npath = '.'\n[data]\ntrain = 'train.jsonl'\nformat = 'prompt-completion'\nmax_length = {}\n\
         [train]\nout = 'out'\nbatch_size = {}\nsteps = 2\n[eval]\nsamples = 0\n",
        args.seq, args.batch
    );
    fs::write(&run, text).map_err(|e| e.to_string())?;
    let mut sets = vec![
        format!("peft.method={}", args.method),
        format!("optim.kind={}", args.optim),
    ];
    sets.extend(args.options.iter().map(|option| format!("peft.{option}")));
    sets.push(format!("train.checkpointing={}", args.checkpointing));
    sets.push(format!("model.dtype={}", args.dtype.name()));
    sets.push(format!("model.compute={}", args.dtype.name()));
    if let Some(scheme) = args.quant {
        sets.push(format!("model.quant.kind={}", scheme.kind.name()));
        sets.push(format!("model.quant.double={}", scheme.double));
    }
    let config = RunConfig::load(&run, &sets).map_err(|e| e.to_string())?;
    let name = args.device.split(':').next().unwrap_or_default();
    let device = DeviceTraits::named(name).ok_or_else(|| format!("--device {name}: no plan for it"))?;
    let here = ft_cli::open_device(&args.device);
    let plan = PlanSummary::elsewhere(config, &device, &here, None).map_err(|e| e.to_string())?;
    Ok(plan.bytes)
}
