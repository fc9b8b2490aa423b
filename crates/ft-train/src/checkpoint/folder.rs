//! Folders that are either whole or not there: written under a temporary name, every file and the folder synced to the
//! disk, then renamed. A manifest with the size and CRC-32 of every file tells a damaged one later.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const MANIFEST: &str = "manifest.json";
const DRAFT: &str = ".writing-";
const REPLACED: &str = ".replaced-";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    crc32: u32,
}

/// A folder being written.
pub struct Draft {
    draft: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Starts the folder that will be `target`.
    pub fn begin(target: &Path) -> Result<Self> {
        let draft = sibling(target, DRAFT);
        if draft.exists() {
            fs::remove_dir_all(&draft).map_err(|e| Error::io(&draft, e))?;
        }
        fs::create_dir_all(&draft).map_err(|e| Error::io(&draft, e))?;
        Ok(Self {
            draft,
            target: target.to_owned(),
        })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        &self.draft
    }

    /// Writes the manifest, syncs everything and gives the folder its name; an older one of that name goes away.
    pub fn commit(self) -> Result<PathBuf> {
        let draft = self.draft.as_path();
        self.write_manifest()
            .and_then(|()| self.rename())
            .map_err(|e| Error::io(draft, e))?;
        Ok(self.target)
    }

    fn write_manifest(&self) -> io::Result<()> {
        let mut files = BTreeMap::new();
        let path = self.draft.join(MANIFEST);
        let mut manifest = File::create(&path)?;
        let permissions = manifest.metadata()?.permissions();
        for name in file_names(&self.draft)?.into_iter().filter(|name| name != MANIFEST) {
            let path = self.draft.join(&name);
            // safetensors makes its files in a private temporary one; others may read what they may read elsewhere.
            fs::set_permissions(&path, permissions.clone())?;
            File::open(&path)?.sync_all()?;
            files.insert(name, measure(&path)?);
        }
        serde_json::to_writer_pretty(&mut manifest, &Manifest { files })?;
        manifest.sync_all()?;
        sync_folder(&self.draft)
    }

    fn rename(&self) -> io::Result<()> {
        let old = sibling(&self.target, REPLACED);
        if self.target.exists() {
            fs::rename(&self.target, &old)?;
        }
        fs::rename(&self.draft, &self.target)?;
        sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    }
}

/// Removes what a killed run left half-written in `parent`, and puts back a folder that was moved aside by a
/// replacement that never happened.
pub fn clean(parent: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.starts_with(DRAFT) {
            remove(&path).map_err(|e| Error::io(&path, e))?;
        } else if let Some(original) = name.strip_prefix(REPLACED) {
            let original = parent.join(original);
            let done = if original.exists() {
                fs::remove_dir_all(&path)
            } else {
                fs::rename(&path, &original)
            };
            done.map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// A draft is a folder, or the file of a [`write_file`].
fn remove(path: &Path) -> io::Result<()> {
    match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Everything that is wrong with the folder, judged by its manifest; empty when it is as it was written.
pub fn damage(folder: &Path) -> Vec<String> {
    let manifest: Manifest = match fs::read(folder.join(MANIFEST)) {
        Err(e) => return vec![format!("{MANIFEST}: {e}")],
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Err(e) => return vec![format!("{MANIFEST}: {e}")],
            Ok(manifest) => manifest,
        },
    };
    let judge = |(name, expected): (&String, &Entry)| match measure(&folder.join(name)) {
        Err(e) => Some(format!("{name}: {e}")),
        Ok(found) if found.bytes != expected.bytes => {
            Some(format!("{name}: {} bytes instead of {}", found.bytes, expected.bytes))
        }
        Ok(found) if found.crc32 != expected.crc32 => Some(format!("{name}: checksum does not match")),
        Ok(_) => None,
    };
    manifest.files.iter().filter_map(judge).collect()
}

/// Replaces one file: written beside it, synced, renamed.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = sibling(path, DRAFT);
    let write = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|e| Error::io(path, e))
}

fn sibling(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{name}"))
}

fn file_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn measure(path: &Path) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let (mut crc, mut bytes, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Entry {
                bytes,
                crc32: crc.finalize(),
            });
        }
        bytes += read as u64;
        crc.update(&buffer[..read]);
    }
}

/// A rename is only durable once the folder that holds the name is synced; not every system lets folders be opened.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}
