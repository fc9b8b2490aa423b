//! The files that make up a tokenizer: read from a folder or held in memory, and copied as they are into what a run saves.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// Everything in a checkpoint folder that belongs to its tokenizer.
const COPIED: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    TEMPLATE,
    "chat_template.json",
];

/// Where transformers keeps a tokenizer's chat template.
pub(super) const TEMPLATE: &str = "chat_template.jinja";

/// Further named templates, one file each.
const TEMPLATES: &str = "additional_chat_templates";

#[derive(Debug, Clone)]
pub(super) enum Files {
    Folder(PathBuf),
    Memory(Vec<(String, Vec<u8>)>),
    /// Made of the metadata of a GGUF file.
    Gguf(PathBuf, Vec<(String, Vec<u8>)>),
}

impl Files {
    /// How messages call the file `name`.
    pub fn label(&self, name: &str) -> String {
        match self {
            Files::Folder(folder) => folder.join(name).display().to_string(),
            Files::Memory(_) => name.into(),
            Files::Gguf(file, _) => format!("{} (as {name})", file.display()),
        }
    }

    /// The bytes of `name`, or nothing when there is no such file.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Files::Memory(files) | Files::Gguf(_, files) => {
                Ok(files.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.clone()))
            }
            Files::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Io {
                    path: folder.join(name),
                    source,
                }),
            },
        }
    }

    /// The parsed JSON of `name`; null when there is no such file.
    pub fn json(&self, name: &str) -> Result<Value> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(Value::Null);
        };
        serde_json::from_slice(&bytes).map_err(|e| self.error(name, format!("invalid JSON: {e}")))
    }

    /// The text of `name`, or nothing when there is no such file.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| self.error(name, "not UTF-8".into()))
    }

    pub fn error(&self, name: &str, what: String) -> Error {
        Error::File {
            file: self.label(name),
            what,
        }
    }

    /// Writes every file of the tokenizer into `folder`, which must exist.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        for name in COPIED {
            if let Some(bytes) = self.bytes(name)? {
                write(&folder.join(name), &bytes)?;
            }
        }
        match self {
            Files::Folder(from) if from.join(TEMPLATES).is_dir() => {
                copy_folder(&from.join(TEMPLATES), &folder.join(TEMPLATES))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file, naming it when that fails.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { path, source }
    };
    std::fs::create_dir_all(to).map_err(io(to))?;
    for entry in std::fs::read_dir(from).map_err(io(from))? {
        let path = entry.map_err(io(from))?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            write(&to.join(name), &std::fs::read(&path).map_err(io(&path))?)?;
        }
    }
    Ok(())
}
