//! The committed files, and writing them to a folder.

use std::fs;
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// One embedded file.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    pub name: &'static str,
    pub bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        /// Every embedded file: a model folder in Hugging Face layout, the data, and the configuration that uses them.
        pub static ASSETS: &[Asset] =
            &[$(Asset { name: $name, bytes: include_bytes!(concat!("../assets/", $name)) }),*];
    };
}

assets![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "train.jsonl",
    "valid.jsonl",
    "quickstart.toml",
];

/// The run configuration of `ft train` without arguments. Its paths are relative to the folder that [`unpack`] fills.
pub fn quickstart_config() -> &'static str {
    include_str!("../assets/quickstart.toml")
}

/// Writes every [`Asset`] into `dir`, which is created where it does not exist.
///
/// A file that is already there with the same bytes is left alone, and a new one appears under its name only when it is
/// whole: several processes may unpack into the same folder while others have its files mapped.
///
/// # Errors
///
/// [`Error::Write`] names the file that could not be written.
pub fn unpack(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|source| Error::Write {
        path: dir.into(),
        source,
    })?;
    for asset in ASSETS {
        let path = dir.join(asset.name);
        write(&path, asset.bytes).map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let part = path.with_extension(format!("part-{}", std::process::id()));
    fs::write(&part, bytes)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Lesson;
    use crate::recipe;

    fn lines(name: &str) -> Vec<Lesson> {
        let asset = ASSETS.iter().find(|a| a.name == name).expect("a known name");
        let text = std::str::from_utf8(asset.bytes).expect("UTF-8");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a lesson"))
            .collect()
    }

    #[test]
    fn the_committed_data_is_what_the_grammar_writes() {
        assert_eq!(lines("train.jsonl"), recipe::train().collect::<Vec<_>>());
        assert_eq!(lines("valid.jsonl"), recipe::valid().collect::<Vec<_>>());
    }

    #[test]
    fn no_held_out_prompt_is_trained_on() {
        let train: std::collections::HashSet<String> = lines("train.jsonl").into_iter().map(|l| l.prompt).collect();
        assert!(
            lines("valid.jsonl")
                .iter()
                .all(|lesson| !train.contains(&lesson.prompt))
        );
    }

    #[test]
    fn the_files_are_small() {
        let size = |name: &str| {
            ASSETS
                .iter()
                .filter(|a| a.name.contains(name))
                .map(|a| a.bytes.len())
                .sum::<usize>()
        };
        assert!(size("model.safetensors") < 5_000_000, "{}", size("model.safetensors"));
        assert!(size("") < 7_000_000, "{}", size(""));
    }

    #[test]
    fn unpacking_twice_changes_nothing_and_repairs_what_was_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        unpack(dir.path()).expect("unpacks");
        let config = dir.path().join("config.json");
        let stamp = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).expect("a time");
        let first = stamp(&config);
        fs::write(dir.path().join("tokenizer.json"), "{").expect("writes");
        unpack(dir.path()).expect("unpacks again");
        assert_eq!(stamp(&config), first);
        for asset in ASSETS {
            assert_eq!(fs::read(dir.path().join(asset.name)).expect(asset.name), asset.bytes);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), ASSETS.len());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = unpack(&file.path().join("below")).expect_err("a file is no folder");
        assert!(error.to_string().contains("below"), "{error}");
    }
}
