//! What ranks of one run must have in common: what they run, when they stop, what they warn of.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ft_ranks::Ranks;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoints, TrainerState};
use crate::engine::fit::Event;
use crate::engine::resume::{self, Resume};
use crate::engine::session::Session;
use crate::{Error, Plan, Result};

/// What a rank runs.
#[derive(Serialize, Deserialize)]
struct Identity {
    /// What it is of, and a checksum or the text itself.
    parts: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Identity {
    fn of(plan: &Plan) -> Self {
        let program = std::env::current_exe().and_then(|path| checksum(&path));
        let program = program.unwrap_or(0);
        let valid = plan.valid.iter().fold(crc32fast::Hasher::new(), |mut sum, sample| {
            sample.ids.iter().for_each(|id| sum.update(&id.to_le_bytes()));
            sum
        });
        let provenance = &plan.provenance;
        let commit = provenance.commit.as_deref().unwrap_or("none");
        let parts = [
            (
                "the program (version, commit, checksum)",
                format!("{} {commit} {program:08x}", provenance.version),
            ),
            (
                "data.train (checksum of the samples)",
                format!("{:08x}", plan.data.crc32),
            ),
            (
                "data.valid (checksum of the samples)",
                format!("{:08x}", valid.finalize()),
            ),
            ("model.path (checksum of the base)", format!("{:08x}", plan.base_crc32)),
        ];
        let config = plan.config.to_toml(None);
        let keys = checkpoint::flat(&config).into_iter();
        let keys = keys.map(|(key, value)| (key, value.to_string()));
        let parts = parts.map(|(name, value)| (name.to_owned(), value)).into_iter();
        Self {
            parts: parts.chain(keys).collect(),
            warnings: plan.warnings.clone(),
        }
    }
}

/// Of a file, a megabyte at a time.
fn checksum(path: &Path) -> std::io::Result<u32> {
    let (mut file, mut sum) = (File::open(path)?, crc32fast::Hasher::new());
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(sum.finalize()),
            count => sum.update(&bytes[..count]),
        }
    }
}

/// Sees that all ranks run the same, and tells the first of warnings that it does not have itself.
///
/// # Errors
/// [`Error::Ranks`] with everything that differs, at every rank.
pub(crate) fn compare(plan: &Plan, ranks: &Ranks, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let own = serde_json::to_vec(&Identity::of(plan)).unwrap_or_default();
    let all = ranks.all_gather(&own)?;
    let read = |bytes: &Vec<u8>| serde_json::from_slice::<Identity>(bytes).ok();
    let all: Option<Vec<Identity>> = all.iter().map(read).collect();
    let Some(all) = all else {
        return Err(Error::Ranks(vec![
            "ranks run programs that do not understand each other".into(),
        ]));
    };
    let (first, others) = all.split_first().expect("there is a rank 0");
    let mut found = Vec::new();
    for (number, other) in others.iter().enumerate() {
        found.extend(differences(number + 1, first, other));
    }
    if !found.is_empty() {
        return Err(Error::Ranks(found));
    }
    if ranks.is_first() {
        for (number, other) in others.iter().enumerate() {
            let new = other.warnings.iter().filter(|text| !first.warnings.contains(text));
            new.for_each(|text| on_event(&Event::Warning(format!("rank {}: {text}", number + 1))));
        }
    }
    Ok(())
}

fn differences(rank: usize, first: &Identity, other: &Identity) -> Vec<String> {
    let value = |of: &Identity, name: &str| {
        of.parts
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = first.parts.iter().chain(&other.parts).map(|(name, _)| name).collect();
    names.dedup();
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let (a, b) = (value(first, name), value(other, name));
        let none = || "not there".to_owned();
        if a != b {
            let (a, b) = (a.unwrap_or_else(none), b.unwrap_or_else(none));
            found.push(format!("{name}: rank 0 has {a}, rank {rank} has {b}"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The checkpoint to go on from: rank 0 chooses it and makes the run folder ready, the others read it too.
pub(crate) fn resume(
    plan: &Plan,
    resume: Option<Resume>,
    ranks: &Ranks,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Option<(PathBuf, TrainerState)>> {
    if !ranks.is_first() {
        let path = ranks.broadcast(Vec::new())?;
        let path: Option<PathBuf> = serde_json::from_slice(&path).unwrap_or_default();
        let Some(path) = path else { return Ok(None) };
        let state = checkpoint::read_state(&path).map_err(|error| {
            let rank = ranks.rank();
            let why = format!("rank {rank} cannot read it ({error}): every machine must see the folder train.out, or a copy of this checkpoint at the same place");
            Error::checkpoint(&path, why)
        })?;
        return Ok(Some((path, state)));
    }
    let from = resume::prepare(plan, resume, on_event)?;
    let path = from.as_ref().map(|(path, _)| path);
    ranks.broadcast(serde_json::to_vec(&path).unwrap_or_default())?;
    Ok(from)
}

/// The error with the newest checkpoint where another rank is what failed.
pub(crate) fn with_last(error: Error, plan_out: &Path) -> Error {
    match error {
        Error::Rank { lost, .. } => {
            let newest = Checkpoints::of(plan_out).steps().into_iter().max();
            let last = newest.map_or("none".to_owned(), |step| {
                Checkpoints::of(plan_out).path(step).display().to_string()
            });
            Error::Rank { lost, last }
        }
        error => error,
    }
}

/// Warnings since the ranks last met.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    /// What was told is known.
    pub fn clear(&self) {
        self.open().clear();
    }

    fn open(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told `on_event`, with warnings kept for the first rank, who alone tells anything.
    pub fn beside(&self, ranks: &Ranks, mut on_event: Box<dyn FnMut(&Event) + Send>) -> Box<dyn FnMut(&Event) + Send> {
        if ranks.is_alone() {
            return on_event;
        }
        let (told, first) = (self.clone(), ranks.is_first());
        Box::new(move |event| {
            if let Event::Warning(text) = event {
                told.open().push(text.clone());
            }
            if first {
                on_event(event);
            }
        })
    }
}

impl Session {
    /// Where all ranks meet, between two steps: one that was asked to stop stops all of them, and warnings reach the first.
    pub(crate) fn meet(&mut self) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let own = std::mem::take(&mut *self.told.open());
        let message = serde_json::to_vec(&(self.stop.asked_here(), &own)).unwrap_or_default();
        let all = self.ranks.all_gather(&message)?;
        for (rank, message) in all.iter().enumerate() {
            let (asked, warnings): (bool, Vec<String>) = serde_json::from_slice(message).unwrap_or_default();
            if asked {
                self.stop.agree();
            }
            if self.ranks.is_first() && rank > 0 {
                let new = warnings.into_iter().filter(|text| !own.contains(text));
                new.for_each(|text| (self.on_event)(&Event::Warning(format!("rank {rank}: {text}"))));
            }
        }
        // What it has just told is not news of its own.
        self.told.clear();
        Ok(())
    }
}
