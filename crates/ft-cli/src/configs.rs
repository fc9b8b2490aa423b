//! Configuration files as the verbs read them: parsed by ft-train, with `model.path` found as MODEL is.

use std::path::Path;

use ft_data::Tokenizer;
use ft_train::RunConfig;

use crate::failure::Failure;
use crate::locate;

/// Reads a file with `--set` on top. `model.path` becomes a folder, whatever way it was named.
pub fn load(file: &Path, set: &[String]) -> Result<RunConfig, Failure> {
    let mut config = RunConfig::load(file, set)?;
    config.model.path = locate::checkpoint(&config.model.path.to_string_lossy())?;
    Ok(config)
}

/// The tokenizer of a run: `model.tokenizer`, or the model's own, with the chat template that `[data]` sets.
pub fn tokenizer(config: &RunConfig) -> Result<Tokenizer, Failure> {
    let folder = config.model.tokenizer.as_ref().unwrap_or(&config.model.path);
    Ok(config.data.tokenizer(Tokenizer::from_dir(folder)?)?)
}
