//! Names of models and data sets: `owner/name@revision` and `hf://datasets/owner/name@revision/path`.

use std::fmt;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    Dataset,
}

/// A repository of the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub kind: Kind,
    /// `owner/name`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A file, a folder or a pattern inside of a data set; empty for all of it.
    pub path: String,
}

pub(super) const MAIN: &str = "main";
/// What names of data sets begin with.
pub const DATASETS: &str = "hf://datasets/";

impl Name {
    /// A model, when the text can be one.
    pub fn model(text: &str) -> Option<Name> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (owner, name) = id.split_once('/')?;
        (is_word(owner) && is_word(name) && is_revision(revision)).then(|| Name {
            kind: Kind::Model,
            id: id.to_owned(),
            revision: revision.to_owned(),
            path: String::new(),
        })
    }

    /// A data set: nothing where the text is a path, an error where it begins as a name and is none.
    pub fn dataset(text: &str) -> Option<Result<Name, String>> {
        let rest = text.strip_prefix(DATASETS)?;
        let mut parts = rest.splitn(3, '/');
        let owner = parts.next().unwrap_or_default();
        let (name, revision) = match parts.next().unwrap_or_default() {
            part if part.contains('@') => part.split_once('@').unwrap_or((part, MAIN)),
            part => (part, MAIN),
        };
        let path = parts.next().unwrap_or_default().trim_end_matches('/');
        if !is_word(owner) || !is_word(name) || !is_revision(revision) || !is_inside(path) {
            return Some(Err(format!(
                "`{text}` names no data set of the Hub; write {DATASETS}owner/name, {DATASETS}owner/name@revision or \
                 {DATASETS}owner/name/path"
            )));
        }
        Some(Ok(Name {
            kind: Kind::Dataset,
            id: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            path: path.to_owned(),
        }))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.id)?;
        match self.revision.as_str() {
            MAIN => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

fn is_word(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !word.is_empty() && !word.starts_with('.') && !word.contains("..") && word.chars().all(plain)
}

/// Also parts of a file's path.
fn is_revision(text: &str) -> bool {
    !text.is_empty() && text.split('/').all(is_word)
}

/// Whether a path of the Hub stays inside of the folder that it is put in.
pub(super) fn is_inside(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.is_empty() || (!path.contains(['\\', ':', '\0']) && path.split('/').all(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_an_owner_and_a_name() {
        let name = Name::model("org/na.me-1@v1").unwrap();
        assert_eq!((name.id.as_str(), name.revision.as_str()), ("org/na.me-1", "v1"));
        assert_eq!(Name::model("org/name").unwrap().to_string(), "org/name");
        for text in ["a/b/c", "./b", "a/", "../b", "plain", "a/b@", "a/b@../x", "a/b..c"] {
            assert_eq!(Name::model(text), None, "{text}");
        }
    }

    #[test]
    fn data_sets_have_a_prefix() {
        let read = |text| Name::dataset(text).unwrap();
        let name = read("hf://datasets/org/set@v2/main/train-*.parquet").unwrap();
        assert_eq!((name.id.as_str(), name.revision.as_str()), ("org/set", "v2"));
        assert_eq!(name.path, "main/train-*.parquet");
        assert_eq!(read("hf://datasets/org/set/").unwrap().path, "");
        assert_eq!(Name::dataset("data/train.jsonl"), None);
        for text in [
            "hf://datasets/org",
            "hf://datasets/org/set/../../x",
            "hf://datasets/a/b//c",
            "hf://datasets//b",
        ] {
            assert!(
                read(text).unwrap_err().contains("write hf://datasets/owner/name"),
                "{text}"
            );
        }
    }
}
