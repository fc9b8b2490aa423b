//! Where techniques are compared: a configuration without a method, and what it is told on the command line.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::program::{Program, set};
use crate::shell;

/// A configuration and the arguments that every run gets.
pub struct Ground {
    pub config: PathBuf,
    /// Behind the configuration: model, data, steps, device.
    pub args: Vec<String>,
    /// General text, a file in the format `text`: what was lost of it tells how much is forgotten.
    pub general: Option<PathBuf>,
    pub steps: u64,
    pub search_steps: u64,
}

impl Ground {
    /// `embedded` of `configs/compare-embedded.toml`.
    pub fn name(config: &Path) -> String {
        let stem = config.file_stem().unwrap_or_default().to_string_lossy();
        stem.strip_prefix("compare-").unwrap_or(&stem).to_owned()
    }

    /// `ft VERB CONFIG --json` with these settings.
    pub fn call(&self, ft: &Program, verb: &str, sets: &[String]) -> Result<Value, String> {
        let config = shell::root().join(&self.config);
        let mut args = vec![verb.to_owned(), config.display().to_string(), "--json".into()];
        args.extend(self.args.iter().cloned());
        args.extend(sets.iter().flat_map(|setting| set(setting)));
        ft.json(&args)
    }
}
