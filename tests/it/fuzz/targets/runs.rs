//! What a run leaves behind.

use std::fs;

use ft_seed::below;
use ft_train::checkpoint::{Checkpoints, read_state, read_tensors};
use serde_json::{Value, json};

use super::{Bench, Copy, header_mutated, pick, read, words};
use crate::fuzz::mutate;
use crate::support::crc32;
use crate::train_support::Workshop;

/// A run's newest checkpoint.
fn trained() -> (Workshop, Copy) {
    let workshop = Workshop::new();
    workshop.fit_until("out", &[], 3);
    let copy = Copy::of(&workshop.path("out/checkpoints/step-3"));
    (workshop, copy)
}

/// Whatever is turned, cut or put into a file of a checkpoint, its checksum tells.
pub fn training_checkpoint() -> Bench {
    let (workshop, whole) = trained();
    let out = workshop.path("out");
    let folder = out.join("checkpoints/step-3");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    files.sort();
    Box::new(move |rng| {
        let (_, file) = (&workshop, pick(rng, &files));
        let before = read(&whole.dir.path().join(file));
        let bytes = mutate::bytes(rng, before.clone(), usize::MAX);
        fs::write(folder.join(file), &bytes).unwrap();
        let found = Checkpoints::of(&out).latest();
        fs::write(folder.join(file), &before).unwrap();
        let same = bytes == before || file == "manifest.json";
        match found {
            Ok(_) => assert!(same, "wrong success: {file} was changed"),
            Err(error) => return Err(words(error)),
        }
        Ok(())
    })
}

/// What a checksum cannot tell: files that were written so.
pub fn trainer_state() -> Bench {
    let (workshop, whole) = trained();
    Box::new(move |rng| {
        let _alive = &workshop;
        let path = whole.dir.path();
        let (manifest, before) = ("manifest.json", read(&path.join("manifest.json")));
        let (file, bytes) = match below(rng, 3) {
            0 => {
                let file = "optimizer.safetensors";
                (file, header_mutated(rng, read(&path.join(file))))
            }
            _ => {
                let file = "trainer_state.json";
                (file, mutate::json(rng, &read(&path.join(file))))
            }
        };
        let mut sealed: Value = serde_json::from_slice(&before).unwrap();
        sealed["files"][file] = json!({"bytes": bytes.len(), "crc32": crc32(&bytes)});
        whole.with(manifest, sealed.to_string().as_bytes(), |_| {
            whole.with(file, &bytes, |dir| {
                read_state(dir).map_err(words)?;
                read_tensors(&dir.join("optimizer.safetensors"))
                    .map(drop)
                    .map_err(words)
            })
        })
    })
}
