//! What the Hub says is in a repository.

use serde::Deserialize;

use super::download::quoted;
use super::name::{Kind, Name, is_inside};
use super::wanted::Wanted;

/// The files of a repository at one commit.
pub(super) struct Listing {
    pub commit: String,
    files: Vec<File>,
}

/// A file of the Hub.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub path: String,
    pub size: u64,
    /// SHA-256 of a large file, Git's SHA-1 of a small one: the name of its blob.
    pub etag: String,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Where the Hub says it.
    pub fn path(name: &Name) -> String {
        let kind = match name.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!(
            "/api/{kind}/{}/revision/{}?blobs=true",
            name.id,
            quoted(&name.revision, "")
        )
    }

    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let answer: Answer =
            serde_json::from_slice(body).map_err(|e| format!("the Hub's answer is not understood ({e})"))?;
        if !is_hash(&answer.sha, &[40]) {
            return Err("the Hub's answer names no commit".into());
        }
        let files = answer.siblings.into_iter().map(|sibling| {
            let (etag, size) = match (sibling.lfs, sibling.blob_id, sibling.size) {
                (Some(large), ..) => (large.sha256, large.size),
                (None, Some(id), Some(size)) => (id, size),
                _ => return Err(format!("the Hub says no size or checksum of {}", sibling.rfilename)),
            };
            // Both become names of files here.
            if !is_hash(&etag, &[40, 64]) || sibling.rfilename.is_empty() || !is_inside(&sibling.rfilename) {
                return Err(format!(
                    "{:?} is no name of a file, or {etag:?} no checksum",
                    sibling.rfilename
                ));
            }
            Ok(File {
                path: sibling.rfilename,
                size,
                etag,
            })
        });
        Ok(Self {
            commit: answer.sha,
            files: files.collect::<Result<_, _>>()?,
        })
    }

    /// The files that are wanted.
    pub fn chosen(&self, wanted: &Wanted) -> Result<Vec<File>, String> {
        let names: Vec<String> = self.files.iter().map(|file| file.path.clone()).collect();
        let chosen = wanted.choose(&names)?;
        let is_chosen = |file: &&File| chosen.contains(&file.path);
        Ok(self.files.iter().filter(is_chosen).cloned().collect())
    }
}

fn is_hash(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_reach_outside_are_refused() {
        let read = |name: &str, etag: &str| {
            let sha = "0".repeat(40);
            let answer = serde_json::json!({"sha": sha, "siblings": [{"rfilename": name, "size": 1, "blobId": etag}]});
            Listing::parse(answer.to_string().as_bytes()).map(|listing| listing.files)
        };
        let etag = "ab".repeat(20);
        assert_eq!(read("a/b.json", &etag).unwrap()[0].path, "a/b.json");
        for name in ["../x", "/etc/passwd", "a/../../b", "a\\..\\b", "C:x", "", "a//b"] {
            assert!(read(name, &etag).is_err(), "{name}");
        }
        for etag in ["", "../../x", "AB", &"g".repeat(40)] {
            assert!(read("a", etag).is_err(), "{etag}");
        }
        assert!(Listing::parse(b"{\"sha\": \"../..\"}").is_err());
        assert!(Listing::parse(b"[]").is_err());
    }
}
