//! The files of an adapter as they were: whether a folder still holds what was read from it.

use std::path::Path;
use std::time::SystemTime;

/// Names, lengths and times of the files in a folder; two that are equal hold the same, as far as can be told without reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files(Vec<(String, u64, Option<SystemTime>)>);

impl Files {
    /// Of the configuration and the tensors in `folder`.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn of(folder: &Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".safetensors") || name == "adapter_config.json" {
                let about = entry.path().metadata().map_err(failed)?;
                files.push((name, about.len(), about.modified().ok()));
            }
        }
        files.sort();
        Ok(Self(files))
    }
}
