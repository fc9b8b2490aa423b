//! Scalars for TensorBoard: one event file, written by hand. (The crates for it bring a protobuf compiler or runtime for two
//! messages.)
//!
//! ```text
//! record    u64 length | masked CRC-32C of it | event | masked CRC-32C of the event        (TFRecord, little-endian)
//! event     1: double wall_time   2: int64 step   3: string file_version   5: Summary { 1: Value { 1: tag, 2: float } }
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::checkpoint::write_file;
use crate::watch::history::Done;
use crate::{Error, Result};

/// The event file of a run.
pub struct EventFile {
    path: PathBuf,
    file: File,
    /// Wall time at `since`: what follows is measured with a clock that only goes forward.
    start: f64,
    since: Instant,
}

impl EventFile {
    /// Opens the file in `folder` for a run that goes on after `done`: events of what follows go away, and TensorBoard shows
    /// one line, not two. A new run starts an empty file.
    pub fn open(folder: &Path, done: Option<Done>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64());
        let (old, kept) = kept(folder, done)?;
        let start = kept.iter().filter_map(|event| wall_time(event)).fold(now, f64::max);
        let path = folder.join(format!(
            "events.out.tfevents.{:010}.ft.{}",
            start as u64,
            std::process::id()
        ));
        let mut bytes = Vec::new();
        if kept.is_empty() {
            append(&mut bytes, &version(start));
        }
        kept.iter().for_each(|event| append(&mut bytes, event));
        write_file(&path, &bytes)?;
        for file in old.iter().filter(|file| **file != path) {
            fs::remove_file(file).map_err(|e| Error::io(file, e))?;
        }
        let file = File::options()
            .append(true)
            .open(&path)
            .map_err(|e| Error::io(&path, e))?;
        let since = Instant::now();
        Ok(Self {
            path,
            file,
            start,
            since,
        })
    }

    /// Writes the numbers of a line of `metrics.jsonl` under its step: `eval_loss` as `eval/loss`, `loss` as `train/loss`.
    pub fn push(&mut self, line: &Value) -> Result<()> {
        let Some(step) = line["step"].as_u64() else {
            return Ok(());
        };
        let scalars = line.as_object().into_iter().flatten().filter(|(key, _)| *key != "step");
        let scalars: Vec<(String, f32)> = scalars
            .filter_map(|(key, value)| Some((tag(key), value.as_f64()? as f32)))
            .collect();
        let mut bytes = Vec::new();
        append(
            &mut bytes,
            &summary(self.start + self.since.elapsed().as_secs_f64(), step, &scalars),
        );
        self.file.write_all(&bytes).map_err(|e| Error::io(&self.path, e))
    }
}

fn tag(key: &str) -> String {
    match key.strip_prefix("eval_") {
        Some(name) => format!("eval/{name}"),
        None => format!("train/{key}"),
    }
}

/// The event files of a folder, and those of their events that stay.
fn kept(folder: &Path, done: Option<Done>) -> Result<(Vec<PathBuf>, Vec<Vec<u8>>)> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().contains("tfevents"))
        })
        .collect();
    files.sort();
    let mut events = Vec::new();
    if let Some(done) = done {
        for file in &files {
            let bytes = fs::read(file).map_err(|e| Error::io(file, e))?;
            let stays = |event: &Vec<u8>| done.covers(step(event) as usize, is_evaluation(event));
            events.extend(records(&bytes).into_iter().filter(stays));
        }
    }
    Ok((files, events))
}

fn append(out: &mut Vec<u8>, event: &[u8]) {
    let length = (event.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(event);
    out.extend(masked_crc(event).to_le_bytes());
}

/// The events of a file, up to the first that is torn or damaged.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    while let Some((length, rest)) = bytes.split_at_checked(12) {
        let size = u64::from_le_bytes(length[..8].try_into().expect("eight bytes"));
        let whole = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size));
        let Some((event, rest)) = whole else { break };
        let Some((crc, rest)) = rest.split_at_checked(4) else {
            break;
        };
        if length[8..] != masked_crc(&length[..8]).to_le_bytes() || crc != masked_crc(event).to_le_bytes() {
            break;
        }
        events.push(event.to_vec());
        bytes = rest;
    }
    events
}

fn version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    number(&mut event, 1, wall_time);
    text(&mut event, 3, b"brain.Event:2");
    event
}

fn summary(wall_time: f64, step: u64, scalars: &[(String, f32)]) -> Vec<u8> {
    let mut values = Vec::new();
    for (tag, value) in scalars {
        let mut one = Vec::new();
        text(&mut one, 1, tag.as_bytes());
        one.push(2 << 3 | 5); // field 2, four bytes
        one.extend(value.to_le_bytes());
        text(&mut values, 1, &one);
    }
    let mut event = Vec::new();
    number(&mut event, 1, wall_time);
    event.push(2 << 3); // field 2, a varint
    varint(&mut event, step);
    text(&mut event, 5, &values);
    event
}

/// A field of eight bytes.
fn number(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// A field of some bytes.
fn text(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits at a time, the lowest first.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The time of an event of ours: it comes first.
fn wall_time(event: &[u8]) -> Option<f64> {
    let (tag, rest) = event.split_first()?;
    let bytes = rest.first_chunk::<8>().filter(|_| *tag == 1 << 3 | 1)?;
    Some(f64::from_le_bytes(*bytes))
}

/// The step of an event of ours, which follows the time; 0 for one without a step.
fn step(event: &[u8]) -> u64 {
    let Some((tag, rest)) = event.get(9..).and_then(<[u8]>::split_first) else {
        return 0;
    };
    if *tag != 2 << 3 {
        return 0;
    }
    let (mut value, mut shift) = (0, 0);
    for byte in rest.iter().take(10) {
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
    0
}

/// Whether an event of ours is an evaluation's: all its tags say so.
fn is_evaluation(event: &[u8]) -> bool {
    event.windows(5).any(|bytes| bytes == b"eval/")
}

/// CRC-32C (Castagnoli), rotated and shifted as TFRecord wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    });
    (!crc).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn done(step: usize) -> Done {
        Done {
            step,
            evaluated: Some(step),
        }
    }

    fn events(folder: &Path) -> Vec<(u64, f64)> {
        let (_, events) = kept(folder, Some(done(usize::MAX))).unwrap();
        events
            .iter()
            .map(|event| (step(event), wall_time(event).unwrap()))
            .collect()
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        let unmasked = masked_crc(b"123456789").wrapping_sub(0xA282_EAD8).rotate_left(15);
        assert_eq!(unmasked, 0xE306_9283);
    }

    /// The bytes that TensorFlow's own writer makes of a scalar `a` = 1.5 at step 300 and time 2.
    #[test]
    fn an_event_is_spelled_as_protobuf_spells_it() {
        let expected = [
            0x09, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x10, 0xac, 0x02, 0x2a, 0x0a, 0x0a, 0x08, 0x0a, 0x01, b'a', 0x15, 0, 0,
            0xc0, 0x3f,
        ];
        assert_eq!(summary(2.0, 300, &[("a".into(), 1.5)]), expected);
    }

    #[test]
    fn a_resumed_run_keeps_what_came_before_and_time_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::open(dir.path(), None).unwrap();
        for step in [1, 130, 200] {
            file.push(&json!({ "step": step, "loss": 0.5, "note": "no number" }))
                .unwrap();
        }
        file.push(&json!({ "step": 200, "eval_loss": 0.25 })).unwrap();
        // A tear, as a kill leaves it.
        file.file.write_all(&[9, 0, 0]).unwrap();
        // The clock was an hour ahead when the file was written.
        let ahead = file.start + 3600.0;
        let mut bytes = fs::read(&file.path).unwrap();
        bytes.truncate(bytes.len() - 3);
        append(&mut bytes, &summary(ahead, 130, &[]));
        fs::write(&file.path, bytes).unwrap();

        let mut again = EventFile::open(dir.path(), Some(done(130))).unwrap();
        again.push(&json!({ "step": 131, "loss": 0.4 })).unwrap();
        let steps: Vec<u64> = events(dir.path()).iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [0, 1, 130, 130, 131]);
        assert!(events(dir.path()).last().unwrap().1 >= ahead);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "one file");

        EventFile::open(dir.path(), None).unwrap();
        assert_eq!(events(dir.path()).len(), 1, "a new run starts with the version alone");
    }
}
