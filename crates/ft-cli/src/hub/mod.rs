//! The Hugging Face Hub: what a name means, the local cache, which is that of Python's `huggingface_hub`, and downloads into it.
//!
//! What is in the cache is used without asking the Hub. The `hf-hub` crate is not used: it publishes files in the cache before anybody could
//! compare a checksum, knows no offline mode, and brings `http`, whose features would compile Burn once more.

mod cache;
#[cfg(feature = "hub")]
mod chosen;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
mod meter;
mod name;
mod settings;
#[cfg(all(test, feature = "hub"))]
mod tests;
mod wanted;

use std::path::PathBuf;

use ft_data::{Files, Role};

use crate::failure::Failure;
use cache::Repo;
#[cfg(feature = "hub")]
use listing::Listing;
use settings::Settings;

pub use name::{Kind, Name};
pub use settings::{forbid, is_forbidden};
pub use wanted::Wanted;

/// How far a name is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To the Hub, where it is not in the cache.
    Network,
    /// To the cache.
    Cache,
}

/// The folder with a snapshot of what is named.
pub fn fetch(name: &Name, wanted: &Wanted, reach: Reach) -> Result<PathBuf, Failure> {
    let mut settings = Settings::from_environment();
    settings.offline |= reach == Reach::Cache;
    fetch_with(name, wanted, &settings)
}

/// Puts files of the cache in the place of data sets of the Hub, which are fetched where they are not there. `splits` are those that will be
/// asked for.
pub fn fetch_data(files: &mut Files, splits: &[(Option<String>, Role)]) -> Result<(), Failure> {
    for path in files.paths_mut() {
        let Some(name) = path.to_str().and_then(Name::dataset) else {
            continue;
        };
        let name = name.map_err(Failure::new)?;
        let wanted = Wanted::Data {
            path: name.path.clone(),
            splits: splits.to_vec(),
        };
        let folder = fetch(&name, &wanted, Reach::Network)?;
        *path = match name.path.as_str() {
            "" => folder,
            inside => folder.join(inside),
        };
    }
    Ok(())
}

fn fetch_with(name: &Name, wanted: &Wanted, settings: &Settings) -> Result<PathBuf, Failure> {
    let repo = Repo::new(&settings.cache, name);
    let cached = repo.snapshot(&name.revision);
    if let Some(folder) = &cached
        && (wanted.is_complete(folder) || repo.is_noted(folder, wanted))
    {
        return Ok(folder.clone());
    }
    let cached = cached.filter(|folder| wanted.is_usable(folder));
    match cached {
        Some(folder) if settings.offline => Ok(folder),
        cached => download(name, wanted, &repo, settings, cached),
    }
}

/// `cached` is what there is to go on with where the Hub cannot be reached.
#[cfg(feature = "hub")]
fn download(
    name: &Name,
    wanted: &Wanted,
    repo: &Repo,
    settings: &Settings,
    cached: Option<PathBuf>,
) -> Result<PathBuf, Failure> {
    if settings.offline {
        return Err(not_cached(
            name,
            "and the network is forbidden (--offline or HF_HUB_OFFLINE)",
        ));
    }
    let web = download::Web::new(settings);
    let body = match (web.text(&Listing::path(name)), cached) {
        (Ok(body), _) => body,
        (Err(trouble), Some(folder)) if trouble.may_pass() => {
            tracing::warn!(
                "{} cannot be reached; {name} is taken from the cache as it is",
                settings.endpoint
            );
            return Ok(folder);
        }
        (Err(trouble), _) => return Err(trouble.of(name, settings)),
    };
    let whose = |what| Failure::new(format!("{name}: {what}"));
    let listing = Listing::parse(&body).map_err(whose)?;
    let files = listing.chosen(wanted).map_err(whose)?;
    web.fetch(name, &listing.commit, &files, repo)?;
    repo.point(&name.revision, &listing.commit)?;
    let folder = repo.snapshot_of(&listing.commit);
    repo.note(&folder, wanted)?;
    Ok(folder)
}

#[cfg(not(feature = "hub"))]
fn download(name: &Name, _: &Wanted, _: &Repo, _: &Settings, _: Option<PathBuf>) -> Result<PathBuf, Failure> {
    Err(not_cached(
        name,
        "and this program was built without downloads (feature `hub`)",
    ))
}

fn not_cached(name: &Name, why: &str) -> Failure {
    let (id, revision) = (&name.id, &name.revision);
    let mut command = format!("hf download {id}");
    if name.kind == Kind::Dataset {
        command += " --repo-type dataset";
    }
    if revision != name::MAIN {
        command += &format!(" --revision {revision}");
    }
    let folder = id.rsplit('/').next().unwrap_or(id);
    Failure::new(format!(
        "the Hub's `{id}` is not in the local cache, {why}. Fetch it where there is a network, with ft or with `{command} --local-dir {folder}` \
         (pip install huggingface_hub), and use `{folder}`"
    ))
}
