//! Configuration files as the verbs read them: parsed by ft-train, with `model.path` found as MODEL is.

use std::path::{Path, PathBuf};

use ft_data::{Role, Tokenizer};
use ft_train::RunConfig;
use ft_train::config::PeftSection;

use crate::failure::{Context, Failure};
use crate::{embedded, hub, locate};

/// Reads a file with `--set` on top. `model.path` and `peft.from` become folders, whatever way they were named.
pub fn load(file: &Path, set: &[String]) -> Result<RunConfig, Failure> {
    let mut config = RunConfig::load(file, set)?;
    let place = |key: &str| format!("{}: {key} cannot be used", file.display());
    config.model.path = locate::checkpoint(&config.model.path.to_string_lossy()).context(place("model.path"))?;
    fetch_data(&mut config)?;
    config.data.cache_folder = Some(token_cache());
    if let PeftSection::From(adapter) = &mut config.peft {
        adapter.from = locate::adapter_folder(&adapter.from).context(place("peft.from"))?;
    }
    config.data.labels = ft_train::labels_of(&config)?;
    Ok(config)
}

/// Where `data.cache` keeps tokens when it names no folder.
pub fn token_cache() -> PathBuf {
    embedded::cache().join("tokens")
}

/// Puts local files in the place of data sets of the Hub.
fn fetch_data(config: &mut RunConfig) -> Result<(), Failure> {
    let (split, held_out) = (config.data.split.clone(), config.data.valid_split_name.clone());
    let tasks = config.task.iter_mut().map(|task| (&mut task.train, &mut task.valid));
    for (train, valid) in tasks.chain([(&mut config.data.train, &mut config.data.valid)]) {
        let mut splits = vec![(split.clone(), Role::Train)];
        let held_out = (held_out.clone(), Role::HeldOut);
        match valid {
            Some(files) => hub::fetch_data(files, std::slice::from_ref(&held_out))?,
            None if held_out.0.is_some() => splits.push(held_out),
            None => {}
        }
        hub::fetch_data(train, &splits)?;
    }
    Ok(())
}

/// The tokenizer of a run: `model.tokenizer`, or the model's own, with the chat template that `[data]` sets.
pub fn tokenizer(config: &RunConfig) -> Result<Tokenizer, Failure> {
    let folder = config.model.tokenizer.as_ref().unwrap_or(&config.model.path);
    Ok(config.data.tokenizer(Tokenizer::from_dir(folder)?)?)
}
