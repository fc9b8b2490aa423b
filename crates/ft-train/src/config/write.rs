//! The resolved configuration, written back.

use super::RunConfig;

/// What made a run, beside its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Version of this program.
    pub version: String,
    /// Commit it was built from, where the program knows it.
    pub commit: Option<String>,
    /// Device the run is on.
    pub device: String,
}

impl Provenance {
    /// This version on `device`, the commit unknown.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: None,
            device: device.into(),
        }
    }
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        write!(f, "ft {}, commit {commit}, device {}", self.version, self.device)
    }
}

impl RunConfig {
    /// The configuration as a TOML file that [`RunConfig::load`] reads back to the same value.
    pub fn to_toml(&self, from: Option<&Provenance>) -> String {
        let mut text = String::new();
        if let Some(from) = from {
            text = format!("# {from}\n\n");
        }
        text + &toml::to_string(self).unwrap_or_else(|e| format!("# not writable as TOML: {e}\n"))
    }
}
