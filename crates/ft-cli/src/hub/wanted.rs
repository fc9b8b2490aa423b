//! What a repository is fetched for, and when a folder holds it.

use std::path::Path;

use ft_data::Role;

/// What a repository is fetched for.
pub enum Wanted {
    /// A model or an adapter: weights, tokenizer, settings.
    Model,
    /// The files of a data set: all under a path, or those of the splits.
    Data {
        path: String,
        splits: Vec<(Option<String>, Role)>,
    },
}

impl Wanted {
    /// Whether a folder that somebody else filled holds all that is wanted, as far as one can tell by looking.
    pub fn is_complete(&self, folder: &Path) -> bool {
        match self {
            Wanted::Model => has_weights(folder),
            // A file is there or not; of folders, nobody knows.
            Wanted::Data { path, .. } => !path.is_empty() && folder.join(path).is_file(),
        }
    }

    /// Whether there is something to work with.
    pub fn is_usable(&self, folder: &Path) -> bool {
        match self {
            Wanted::Model => folder.join("config.json").is_file() || folder.join("adapter_config.json").is_file(),
            Wanted::Data { path, .. } => ft_data::finds(&folder.join(path)),
        }
    }

    /// What tells one set of wanted files from another, as part of a file's name.
    pub fn mark(&self) -> String {
        match self {
            Wanted::Model => "model".into(),
            Wanted::Data { path, splits } => {
                let text = format!("{path}|{splits:?}");
                format!("data-{:08x}", crc(text.as_bytes()))
            }
        }
    }
}

/// FNV-1a.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Whether a model's weights are there, all parts of them.
fn has_weights(folder: &Path) -> bool {
    let has = |file: &str| folder.join(file).is_file();
    if has("adapter_config.json") {
        return has("adapter_model.safetensors") || has("adapter.safetensors");
    }
    if !has("config.json") || !has("tokenizer.json") {
        return false;
    }
    let index = std::fs::read(folder.join("model.safetensors.index.json")).ok();
    let index = index.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    match index.as_ref().and_then(|index| index["weight_map"].as_object()) {
        Some(parts) => parts.values().all(|part| part.as_str().is_some_and(has)),
        None => has("model.safetensors"),
    }
}
