//! Which files a text in a configuration names: a file, a folder, a pattern, or several of these.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::splits::{self, Role};
use super::{KINDS, kind_of};
use crate::error::{Error, Result};

/// Files of records, as typed: one text or a list of texts, each a file, a folder (all data files in it) or a pattern (`data/*.jsonl`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
#[schemars(with = "OneOrMany")]
pub struct Files(Vec<PathBuf>);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Files {
    fn from(given: OneOrMany) -> Files {
        match given {
            OneOrMany::One(path) => path.into(),
            OneOrMany::Many(paths) => Files(paths),
        }
    }
}

impl From<Files> for OneOrMany {
    fn from(mut files: Files) -> OneOrMany {
        match files.0.len() {
            0 => OneOrMany::One(PathBuf::new()),
            1 => OneOrMany::One(files.0.remove(0)),
            _ => OneOrMany::Many(files.0),
        }
    }
}

impl From<PathBuf> for Files {
    fn from(path: PathBuf) -> Files {
        match path.as_os_str().is_empty() {
            true => Files::default(),
            false => Files(vec![path]),
        }
    }
}

impl From<&Path> for Files {
    fn from(path: &Path) -> Files {
        path.to_path_buf().into()
    }
}

impl From<&PathBuf> for Files {
    fn from(path: &PathBuf) -> Files {
        path.clone().into()
    }
}

impl From<&str> for Files {
    fn from(path: &str) -> Files {
        PathBuf::from(path).into()
    }
}

impl From<&Files> for Files {
    fn from(files: &Files) -> Files {
        files.clone()
    }
}

impl From<Vec<PathBuf>> for Files {
    fn from(paths: Vec<PathBuf>) -> Files {
        Files(paths)
    }
}

impl std::fmt::Display for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no file"),
            [one] => write!(f, "{}", one.display()),
            [first, rest @ ..] => write!(f, "{} and {} more", first.display(), rest.len()),
        }
    }
}

impl Files {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was typed.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// What was typed, to change.
    pub fn paths_mut(&mut self) -> &mut Vec<PathBuf> {
        &mut self.0
    }

    /// The files themselves: folders and patterns in alphabetical order, hidden files left out. Of a folder laid out in splits, those of
    /// `split`, or where none is named those that fit the role.
    ///
    /// # Errors
    /// Names behind which there is no data file, and splits that a folder does not have: all of them in one text.
    pub fn resolve(&self, split: Option<&str>, role: Role) -> Result<Files> {
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for path in &self.0 {
            match expand(path, split, role) {
                Ok(files) => found.extend(files),
                Err(what) => wrong.push(what),
            }
        }
        match wrong.is_empty() {
            true => Ok(Files(found)),
            false => Err(Error::Source(wrong.join("; "))),
        }
    }
}

/// Whether `path` is there, or is a pattern that something fits.
pub fn finds(path: &Path) -> bool {
    path.exists() || pattern(path).is_some_and(|pattern| matching(pattern).is_ok_and(|found| !found.is_empty()))
}

fn expand(path: &Path, split: Option<&str>, role: Role) -> Result<Vec<PathBuf>, String> {
    if path.is_dir() {
        let mut files = Vec::new();
        walk(path, 0, &mut files).map_err(|e| format!("{}: {e}", path.display()))?;
        files.sort();
        if files.is_empty() {
            return Err(format!(
                "the folder {} holds no data file (.{})",
                path.display(),
                KINDS.join(", .")
            ));
        }
        return splits::choose(path, files, split, role);
    }
    if path.exists() {
        return Ok(vec![path.to_path_buf()]);
    }
    match pattern(path) {
        Some(text) => match matching(text)? {
            none if none.is_empty() => Err(format!("no file fits {text}")),
            files => Ok(files),
        },
        None => Err(format!("no file {}", path.display())),
    }
}

const OPTIONS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

fn pattern(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.contains(['*', '?', '[']))
}

/// Parts of a pattern between slashes, at most: `glob` goes down into each on the stack.
const PARTS: usize = 256;

/// The files that fit a pattern, in alphabetical order.
fn matching(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let parts = pattern.split(std::path::is_separator).count();
    if parts > PARTS {
        let begin: String = pattern.chars().take(80).collect();
        return Err(format!("{begin}..: a pattern of {parts} parts; at most {PARTS} are followed"));
    }
    let found = glob::glob_with(pattern, OPTIONS).map_err(|e| format!("{pattern}: {e}"))?;
    let mut files: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// Folders inside folders, at most: links can make circles.
const DEPTH: usize = 8;

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth < DEPTH {
                walk(&path, depth + 1, files)?;
            }
        } else if is_data(&name) {
            files.push(path);
        }
    }
    Ok(())
}

/// Those of a data set's files, named from its folder on, that `path` (a file, a folder, a pattern, or nothing for all), a split and a role
/// choose: what [`Files::resolve`] would choose of them on the disk.
///
/// # Errors
/// As [`Files::resolve`].
pub fn choose_files(files: &[PathBuf], path: &str, split: Option<&str>, role: Role) -> Result<Vec<PathBuf>, String> {
    if files.iter().any(|file| file == Path::new(path)) {
        return Ok(vec![PathBuf::from(path)]);
    }
    let seen = |file: &&PathBuf| {
        let hidden = |part: std::path::Component| part.as_os_str().to_string_lossy().starts_with('.');
        !file.components().any(hidden)
    };
    let inside = files.iter().filter(seen).filter(|file| file.starts_with(path));
    let data = |file: &&PathBuf| {
        file.file_name()
            .is_some_and(|name| is_data(&name.to_string_lossy().to_lowercase()))
    };
    let mut inside: Vec<PathBuf> = inside.filter(data).cloned().collect();
    inside.sort();
    if !inside.is_empty() {
        return splits::choose(Path::new(path), inside, split, role);
    }
    let pattern = glob::Pattern::new(path).map_err(|e| format!("{path}: {e}"))?;
    let mut fitting: Vec<PathBuf> = files
        .iter()
        .filter(|file| pattern.matches_path_with(file, OPTIONS))
        .cloned()
        .collect();
    fitting.sort();
    match fitting.is_empty() {
        true => Err(format!("no data file fits `{path}`")),
        false => Ok(fitting),
    }
}

/// Whether a file, in small letters, holds data.
fn is_data(name: &str) -> bool {
    KINDS.contains(&kind_of(name).0) && !beside_the_data(name)
}

/// Files of data sets that are no data, though their endings say so.
fn beside_the_data(name: &str) -> bool {
    const STEMS: [&str; 6] = ["readme", "license", "licence", "changelog", "notice", "citation"];
    const NAMES: [&str; 4] = [
        "dataset_info.json",
        "dataset_infos.json",
        "dataset_dict.json",
        "state.json",
    ];
    NAMES.contains(&name) || name.split('.').next().is_some_and(|stem| STEMS.contains(&stem))
}
