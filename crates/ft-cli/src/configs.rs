//! Configuration files as the verbs read them: parsed by ft-train, with `model.path` found as MODEL is.

use std::path::Path;

use ft_data::Tokenizer;
use ft_train::RunConfig;
use ft_train::config::PeftSection;

use crate::failure::{Context, Failure};
use crate::locate;

/// Reads a file with `--set` on top. `model.path` and `peft.from` become folders, whatever way they were named.
pub fn load(file: &Path, set: &[String]) -> Result<RunConfig, Failure> {
    let mut config = RunConfig::load(file, set)?;
    let place = |key: &str| format!("{}: {key} cannot be used", file.display());
    config.model.path = locate::checkpoint(&config.model.path.to_string_lossy()).context(place("model.path"))?;
    if let PeftSection::From(adapter) = &mut config.peft {
        adapter.from = locate::adapter_folder(&adapter.from).context(place("peft.from"))?;
    }
    Ok(config)
}

/// The tokenizer of a run: `model.tokenizer`, or the model's own, with the chat template that `[data]` sets.
pub fn tokenizer(config: &RunConfig) -> Result<Tokenizer, Failure> {
    let folder = config.model.tokenizer.as_ref().unwrap_or(&config.model.path);
    Ok(config.data.tokenizer(Tokenizer::from_dir(folder)?)?)
}
