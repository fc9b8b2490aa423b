//! The resolved configuration, written back.

use super::RunConfig;

/// What made a run, beside its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Version of this program.
    pub version: String,
    /// Commit it was built from, when the build said so (environment variable `FT_COMMIT`).
    pub commit: Option<String>,
    /// Device the run is on.
    pub device: String,
}

impl Provenance {
    /// This build, on `device`.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("FT_COMMIT").map(str::to_owned),
            device: device.into(),
        }
    }
}

impl RunConfig {
    /// The configuration as a TOML file that [`RunConfig::load`] reads back to the same value.
    pub fn to_toml(&self, from: Option<&Provenance>) -> String {
        let mut text = String::new();
        if let Some(from) = from {
            let commit = from.commit.as_deref().unwrap_or("unknown");
            text = format!("# ft {}, commit {commit}, device {}\n\n", from.version, from.device);
        }
        text + &toml::to_string(self).unwrap_or_else(|e| format!("# not writable as TOML: {e}\n"))
    }
}
