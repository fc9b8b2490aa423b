//! What the environment says about the Hub, under the names that `huggingface_hub` reads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the Hub and its cache are.
pub(super) struct Settings {
    /// `HF_ENDPOINT`, without a slash behind it.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub endpoint: String,
    /// `HF_TOKEN`, or what `hf auth login` saved.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `--offline` or `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How long the first new try waits; later ones wait longer.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub pause: Duration,
}

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// No network from here on (`--offline`).
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Whether `--offline` was said.
pub fn is_forbidden() -> bool {
    FORBIDDEN.load(Ordering::Relaxed)
}

impl Settings {
    pub fn from_environment() -> Self {
        let home = var("HF_HOME").map_or_else(|| user_cache().join("huggingface"), PathBuf::from);
        let on = |text: String| ["1", "on", "yes", "true"].contains(&text.to_lowercase().as_str());
        Self {
            endpoint: var("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".into())
                .trim_end_matches('/')
                .to_owned(),
            token: var("HF_TOKEN").or_else(|| saved_token(&home)),
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            offline: FORBIDDEN.load(Ordering::Relaxed) || var("HF_HUB_OFFLINE").is_some_and(on),
            pause: Duration::from_millis(500),
        }
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn user_cache() -> PathBuf {
    let home = || var("HOME").or_else(|| var("USERPROFILE")).unwrap_or_default();
    var("XDG_CACHE_HOME").map_or_else(|| Path::new(&home()).join(".cache"), PathBuf::from)
}

fn saved_token(home: &Path) -> Option<String> {
    let file = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
    let token = std::fs::read_to_string(file).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}
