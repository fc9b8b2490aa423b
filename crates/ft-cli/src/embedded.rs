//! `embedded:tiny`: the model and data inside the program, as ordinary folders.

use std::path::{Path, PathBuf};

use ft_train::RunConfig;

use crate::failure::Failure;

/// The one embedded model.
const NAME: &str = "tiny";

/// The folder of an embedded model, written there if need be.
pub fn unpacked(name: &str) -> Result<PathBuf, Failure> {
    if name != NAME {
        return Err(Failure::wrong_use(format!(
            "no embedded model is called `{name}`; there is `embedded:{NAME}`"
        )));
    }
    let folder = cache().join(format!("embedded-{NAME}-{}", env!("CARGO_PKG_VERSION")));
    unpack(&folder)?;
    Ok(folder)
}

/// The run of `ft train` without a configuration. Its folder is new, whatever runs came before it.
pub fn quickstart(set: &[String]) -> Result<RunConfig, Failure> {
    let folder = unpacked(NAME)?;
    let file = folder.join("quickstart.toml");
    let mut config = RunConfig::load(&file, set)?;
    if !set.iter().any(|s| s.trim_start().starts_with("train.out")) {
        config.train.out = free_name(&config.train.out);
    }
    Ok(config)
}

#[cfg(feature = "embedded")]
fn unpack(folder: &Path) -> Result<(), Failure> {
    use crate::failure::Context;
    ft_embedded::unpack(folder).context("cannot unpack the embedded model (FT_CACHE names another folder)")
}

#[cfg(not(feature = "embedded"))]
fn unpack(_: &Path) -> Result<(), Failure> {
    Err(Failure::wrong_use(
        "the embedded model is not in this build; build ft with `--features embedded`",
    ))
}

/// `out`, or `out-2`, `out-3`.. when it is taken.
fn free_name(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let numbered = (2..).map(|n| out.with_file_name(format!("{name}-{n}")));
    std::iter::once(out.to_path_buf())
        .chain(numbered)
        .find(|p| !p.exists())
        .unwrap_or_else(|| out.to_path_buf())
}

/// Where files may lie that can be made again: `FT_CACHE`, or `ft` in the user's folder for caches.
pub fn cache() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(named) = var("FT_CACHE") {
        return named;
    }
    let home = || var("HOME").map(|home| home.join(".cache"));
    let system = var("XDG_CACHE_HOME").or_else(|| var("LOCALAPPDATA")).or_else(home);
    system.unwrap_or_else(std::env::temp_dir).join("ft")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_gets_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        assert_eq!(free_name(&out), out);
        std::fs::create_dir(&out).unwrap();
        assert_eq!(free_name(&out), dir.path().join("run-2"));
        std::fs::create_dir(dir.path().join("run-2")).unwrap();
        assert_eq!(free_name(&out), dir.path().join("run-3"));
    }

    #[test]
    fn an_unknown_name_is_wrong_use() {
        assert!(format!("{:?}", unpacked("huge").unwrap_err()).contains("embedded:tiny"));
    }
}
