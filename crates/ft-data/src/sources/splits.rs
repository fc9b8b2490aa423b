//! Splits of a data set that is a folder, told by names as the Hub lays data sets out: `train.jsonl`, `data/test-00000-of-00003.parquet`,
//! `validation/part.csv`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// What a folder's files are wanted for, which decides where no split is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To train on: `train` where there is one.
    Train,
    /// To be held out: `validation`, or else `test`.
    HeldOut,
}

/// The names of the usual splits, the first of each being the one to say. Those of the `datasets` library.
const USUAL: [&[&str]; 3] = [
    &["train", "training"],
    &["validation", "valid", "val", "dev"],
    &["test", "testing", "eval", "evaluation"],
];
const TRAIN: &str = USUAL[0][0];
const VALIDATION: &str = USUAL[1][0];
const TEST: &str = USUAL[2][0];

/// Those of a folder's `files` that make up the split.
pub(super) fn choose(
    folder: &Path,
    files: Vec<PathBuf>,
    split: Option<&str>,
    role: Role,
) -> Result<Vec<PathBuf>, String> {
    let found: Vec<(PathBuf, Split)> = files
        .into_iter()
        .map(|path| {
            let split = Split::of(path.strip_prefix(folder).unwrap_or(&path));
            (path, split)
        })
        .collect();
    let has = |name: &str| found.iter().any(|(_, split)| split.is(name));
    let none = |key: &str| {
        let names: BTreeSet<&str> = found.iter().map(|(_, split)| split.name.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        format!("the folder {} has {key}; it has: {names}", folder.display())
    };
    let wanted = match (split, role) {
        (Some(name), _) if has(name) => name,
        (Some(name), _) => return Err(none(&format!("no split `{name}`"))),
        (None, Role::Train) if has(TRAIN) => TRAIN,
        (None, Role::HeldOut) if has(VALIDATION) => VALIDATION,
        (None, Role::HeldOut) if has(TEST) => TEST,
        (None, Role::HeldOut) if has(TRAIN) => {
            return Err(none(
                "neither a split `validation` nor `test`, and data.valid_split_name names none",
            ));
        }
        (None, _) => return Ok(found.into_iter().map(|(path, _)| path).collect()),
    };
    let chosen: Vec<(PathBuf, Split)> = found.into_iter().filter(|(_, split)| split.is(wanted)).collect();
    let sets: BTreeSet<&Path> = chosen.iter().map(|(_, split)| split.set.as_path()).collect();
    if sets.len() > 1 {
        let names: Vec<String> = sets
            .iter()
            .map(|set| format!("`{}`", folder.join(set).display()))
            .collect();
        return Err(format!(
            "several data sets have a split `{wanted}`: name one of {}",
            names.join(", ")
        ));
    }
    Ok(chosen.into_iter().map(|(path, _)| path).collect())
}

/// What the name of a file says.
struct Split {
    name: String,
    /// The folder whose splits these are, where it holds several data sets.
    set: PathBuf,
}

impl Split {
    /// The split of a file inside a folder: by a usual word in its name or in the name of a folder, or else by its own name.
    fn of(path: &Path) -> Split {
        let parts: Vec<String> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_string_lossy().to_lowercase()),
                _ => None,
            })
            .collect();
        let (stem, folders) = match parts.split_last() {
            Some((file, folders)) => (file.split('.').next().unwrap_or(file), folders),
            None => ("", [].as_slice()),
        };
        let usual = |text: &str| {
            let mut words = text.split(|c: char| !c.is_alphanumeric());
            words.find_map(|word| USUAL.iter().find(|names| names.contains(&word)).map(|names| names[0]))
        };
        if let Some(name) = usual(stem) {
            return Split::new(name, folders);
        }
        for (at, folder) in folders.iter().enumerate().rev() {
            if let Some(name) = usual(folder) {
                return Split::new(name, &folders[..at]);
            }
        }
        Split::new(without_shard(stem), folders)
    }

    fn new(name: &str, folders: &[String]) -> Split {
        Split {
            name: name.to_owned(),
            set: folders.iter().collect(),
        }
    }

    fn is(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let usual = USUAL.iter().find(|names| names.contains(&name.as_str()));
        self.name == usual.map_or(name.as_str(), |names| names[0])
    }
}

/// `algebra-00000-of-00003` without its number.
fn without_shard(stem: &str) -> &str {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = stem.rsplitn(4, '-').collect();
    match parts.as_slice() {
        [count, "of", at, name] if number(count) && number(at) => name,
        _ => stem,
    }
}
