//! The cache of `huggingface_hub`: `models--owner--name/` with `blobs/` by checksum, `snapshots/COMMIT/` of links to them, and `refs/`, which
//! say what commit a branch or a tag is.

use std::path::{Path, PathBuf};

use super::name::{Kind, Name};
use super::wanted::Wanted;
#[cfg(feature = "hub")]
use crate::failure::{Context, Failure};

/// The folder of one repository.
pub(super) struct Repo {
    folder: PathBuf,
    /// Folder of its lock files.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub locks: PathBuf,
}

impl Repo {
    pub fn new(cache: &Path, name: &Name) -> Self {
        let kind = match name.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let folder = format!("{kind}--{}", name.id.replace('/', "--"));
        Self {
            locks: cache.join(".locks").join(&folder),
            folder: cache.join(folder),
        }
    }

    /// The folder of a revision that is in the cache.
    pub fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let reference = std::fs::read_to_string(self.folder.join("refs").join(revision));
        let commit = reference.unwrap_or_else(|_| revision.to_owned());
        let commit = commit.trim();
        let folder = self.snapshot_of(commit);
        (super::name::is_inside(commit) && !commit.is_empty() && folder.is_dir()).then_some(folder)
    }

    pub fn snapshot_of(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Whether ft has fetched these files before.
    pub fn is_noted(&self, snapshot: &Path, wanted: &Wanted) -> bool {
        self.mark(snapshot, wanted).is_some_and(|mark| mark.is_file())
    }

    fn mark(&self, snapshot: &Path, wanted: &Wanted) -> Option<PathBuf> {
        let commit = snapshot.file_name()?.to_string_lossy();
        Some(self.folder.join(".ft").join(format!("{commit}-{}", wanted.mark())))
    }
}

#[cfg(feature = "hub")]
impl Repo {
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Notes that all of the wanted files are there.
    pub fn note(&self, snapshot: &Path, wanted: &Wanted) -> Result<(), Failure> {
        match self.mark(snapshot, wanted) {
            Some(mark) => write(&mark, ""),
            None => Ok(()),
        }
    }

    /// Notes what commit a revision is.
    pub fn point(&self, revision: &str, commit: &str) -> Result<(), Failure> {
        match revision == commit {
            true => Ok(()),
            false => write(&self.folder.join("refs").join(revision), commit),
        }
    }

    /// Makes `path` of a snapshot a link to its blob; where links cannot be made, a copy.
    pub fn link(&self, commit: &str, path: &str, etag: &str) -> Result<(), Failure> {
        let link = self.snapshot_of(commit).join(path);
        if link.is_file() {
            return Ok(());
        }
        let doing = || format!("{}", link.display());
        if let Some(folder) = link.parent() {
            std::fs::create_dir_all(folder).context(doing())?;
        }
        // A link whose blob is gone.
        let _ = std::fs::remove_file(&link);
        let up = "../".repeat(2 + path.matches('/').count());
        let linked = symlink(format!("{up}blobs/{etag}").as_ref(), &link);
        linked
            .or_else(|_| std::fs::copy(self.blob(etag), &link).map(drop))
            .context(doing())
    }
}

#[cfg(all(feature = "hub", unix))]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(all(feature = "hub", not(unix)))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Writes a small file in one go.
#[cfg(feature = "hub")]
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let doing = || format!("{}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(doing())?;
    }
    let draft = crate::output::draft(path);
    std::fs::write(&draft, text).context(doing())?;
    std::fs::rename(&draft, path).context(doing())
}
