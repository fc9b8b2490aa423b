//! `cargo xtask tidy`: the house rules that neither rustc nor clippy can see.
//!
//! | check | rule |
//! |---|---|
//! | `arrows` | a crate uses only the crates above it in `ARCHITECTURE.md` |
//! | `registry` | every file of a registry folder is declared and used in its `mod.rs` |
//! | `markdown` | a path named in Markdown exists |
//! | `machine` | no absolute path of somebody's machine |
//! | `voice` | libraries do not print, read the environment or pick a device: that is `ft-cli`'s part |
//! | `budget` | 400 lines per Rust file (a warning) |
//!
//! Checks are functions from texts to findings, so that their tests need no files.

mod arrows;
mod budget;
mod machine;
mod markdown;
mod registry;
mod voice;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, shell};

/// A tracked text file: its path from the repository root, with `/`, and its content.
pub struct Text {
    pub path: String,
    pub content: String,
}

pub fn run(args: &[String]) -> Outcome {
    if let Some(arg) = args.first() {
        return Err(format!("unknown argument `{arg}`"));
    }
    let root = shell::root();
    let texts = read_texts(&root)?;
    let metadata = shell::output(shell::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;

    let mut errors = arrows::check(&metadata)?;
    errors.extend(registry::check(&texts));
    errors.extend(markdown::check(&texts, &|path| root.join(path).exists()));
    errors.extend(machine::check(&texts));
    errors.extend(voice::check(&texts));
    for warning in budget::check(&texts) {
        eprintln!("warning: {warning}");
    }
    for error in &errors {
        eprintln!("error: {error}");
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(format!("{} errors", errors.len()))
    }
}

/// The files git knows or would add, relative to `root`, sorted.
pub fn tracked(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut git = Command::new("git");
    let list = git
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let mut paths = match shell::output(list) {
        Ok(listed) => listed
            .lines()
            .map(PathBuf::from)
            .filter(|p| root.join(p).is_file())
            .collect(),
        Err(_) => walk(root)?, // an unpacked archive, without git
    };
    paths.sort();
    Ok(paths)
}

fn walk(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries.flatten().map(|e| e.path()) {
            match path.strip_prefix(root) {
                Ok(p) if p == Path::new("target") || p == Path::new("runs") || p == Path::new(".git") => {}
                Ok(_) if path.is_dir() => folders.push(path),
                Ok(p) => files.push(p.to_path_buf()),
                Err(_) => {}
            }
        }
    }
    Ok(files)
}

// Files that are not UTF-8 (weights) are passed over.
fn read_texts(root: &Path) -> Result<Vec<Text>, String> {
    let mut texts = Vec::new();
    for path in tracked(root)? {
        let bytes = std::fs::read(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        if let Ok(content) = String::from_utf8(bytes) {
            texts.push(Text {
                path: path.to_string_lossy().replace('\\', "/"),
                content,
            });
        }
    }
    Ok(texts)
}

#[cfg(test)]
fn text(path: &str, content: &str) -> Text {
    Text {
        path: path.into(),
        content: content.into(),
    }
}
