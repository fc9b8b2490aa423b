//! What can go wrong around a run, and what then must not be lost.
//!
//! | fault | where it is tested |
//! |---|---|
//! | `kill -9` at any moment | `train_kill`, and `cargo xtask soak` |
//! | SIGTERM, SIGINT, in a long step or evaluation, twice | `ft-cli/tests/cli/runs.rs` |
//! | memory that runs out | `ft-train/src/room/tests.rs`; on the CPU `ft-cli/tests/cli/runs.rs` |
//! | a loss or gradient that is no number | `train_guard` |
//! | everything else | here |

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use burn::tensor::Device;
use ft_train::{Error, Event, FitOptions, Plan, Resume, fit};

use crate::train_support::Workshop;

/// The events of a resumed run that warn.
fn resume_with_warnings(workshop: &Workshop, out: &str) -> Vec<String> {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    let options = FitOptions {
        resume: Some(Resume::Latest),
        on_event: Box::new(move |event| {
            if let Event::Warning(text) = event {
                heard.lock().unwrap().push(text.clone());
            }
        }),
        ..FitOptions::default()
    };
    fit(workshop.plan(out, &[]).unwrap(), options).unwrap();
    told.lock().unwrap().clone()
}

#[test]
fn damaged_checkpoints_are_passed_over_and_the_result_is_the_same() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let truncate = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    type Harm<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Harm, &str); 4] = [
        ("optimizer.safetensors", &flip, "checksum"),
        ("trainable.safetensors", &truncate, "bytes instead of"),
        ("trainer_state.json", &flip, "checksum"),
        ("adapter_model.safetensors", &truncate, "bytes instead of"),
    ];
    for (index, (file, harm, why)) in cases.iter().enumerate() {
        let out = format!("harmed-{index}");
        workshop.fit_until(&out, &[], 6);
        // Checkpoints 3 and 6.
        harm(&workshop.path(&format!("{out}/checkpoints/step-6")).join(file));
        let told = resume_with_warnings(&workshop, &out);
        let found = told
            .iter()
            .find(|text| text.contains("step-6") && text.contains("damaged"));
        let text = found.unwrap_or_else(|| panic!("{told:?}"));
        assert!(text.contains(file) && text.contains(why), "{text}");
        assert_eq!(workshop.result(&out, 12), workshop.result("alone", 12), "{file}");
    }
}

#[test]
fn two_runs_in_one_folder_are_one_too_many() {
    let workshop = Workshop::new();
    let (saved, on_saved) = mpsc::channel();
    let (go, on_go) = mpsc::channel();
    let plan = workshop.plan("out", &[]).unwrap();
    let first = std::thread::spawn(move || {
        let options = FitOptions {
            on_event: Box::new(move |event| {
                if matches!(event, Event::Saved { step: 3, .. }) {
                    saved.send(()).unwrap();
                    on_go.recv().unwrap();
                }
            }),
            ..FitOptions::default()
        };
        fit(plan, options).unwrap()
    });
    on_saved.recv_timeout(Duration::from_secs(120)).unwrap();
    for error in [
        workshop.fit("out", &[]).unwrap_err(),
        workshop.resume("out", &[]).unwrap_err(),
    ] {
        let Error::Locked { pid, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*pid, Some(std::process::id()));
        assert!(error.to_string().contains("another train.out"), "{error}");
    }
    go.send(()).unwrap();
    assert_eq!(first.join().unwrap().steps, 12);

    // A dead process left its lock: nobody holds it.
    fs::write(workshop.path("out/.lock"), "4194305\n").unwrap();
    assert_eq!(workshop.resume("out", &[]).unwrap().steps, 12);
}

#[test]
fn a_run_that_the_disk_has_no_room_for_does_not_start() {
    let workshop = Workshop::new();
    let huge = ["train.steps=1000000000", "train.save_every=1", "train.keep=1000000000"];
    let error = workshop.plan("out", &huge).unwrap_err().to_string();
    assert!(
        error.contains("on the disk") && error.contains("train.keep") && error.contains("--force"),
        "{error}"
    );
    let forced = workshop
        .plan("out", &[&huge[..], &["train.force=true"]].concat())
        .unwrap();
    assert!(
        forced.warnings.iter().any(|w| w.contains("on the disk")),
        "{:?}",
        forced.warnings
    );

    // What is foreseen is what is written.
    let plan = workshop.plan("out", &[]).unwrap();
    let foreseen = plan.disk.checkpoint;
    fit(plan, FitOptions::default()).unwrap();
    let files = fs::read_dir(workshop.path("out/checkpoints/step-12"))
        .unwrap()
        .flatten();
    let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= foreseen && foreseen < bytes + 64 * 1024, "{foreseen}, {bytes}");
}

/// Set for the child process: the workshop to train in.
const CHILD: &str = "FT_TEST_FULL_DISK";

/// Not a test of its own: the process that runs out of room. Without the variable it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = Path::new(&dir);
    let sets = [format!("train.out={}", dir.join("out").display())];
    let config = ft_train::RunConfig::load(&dir.join("run.toml"), &sets).unwrap();
    let plan = Plan::resolve(config, &Device::flex(), "cpu").unwrap();
    let options = FitOptions {
        resume: Some(Resume::Latest),
        ..FitOptions::default()
    };
    match fit(plan, options) {
        Ok(_) => println!("the run went through"),
        Err(error) => println!("the run said: {error}"),
    }
}

/// A limit on the size of files stands for a full disk: writing fails in the middle of a checkpoint.
#[test]
#[cfg(unix)]
fn a_disk_that_fills_up_costs_no_checkpoint() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    workshop.fit_until("out", &[], 3);
    let optimizer = workshop.path("out/checkpoints/step-3/optimizer.safetensors");
    let blocks = fs::metadata(optimizer).unwrap().len() / 1024; // of 512 bytes: half of the file
    let child = Command::new("sh")
        .arg("-c")
        .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["faults::child", "--exact", "--nocapture"])
        .env(CHILD, workshop.dir.path())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("the disk is full: a checkpoint takes"), "{said}");
    assert!(said.contains("step-6") && said.contains("--resume"), "{said}");

    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(workshop.path(folder)).unwrap().flatten();
        entries.map(|e| e.file_name().into_string().unwrap()).collect()
    };
    let mut left = names("out/checkpoints");
    left.sort();
    assert_eq!(left, ["step-3"], "the unfinished one gives its room back");
    workshop.resume("out", &[]).unwrap();
    assert_eq!(workshop.result("out", 12), workshop.result("alone", 12));
    assert_eq!(workshop.curve("out"), workshop.curve("alone"));
}

/// What a kill leaves half written in the run folder itself: the draft of a file, and that of a folder.
#[test]
fn drafts_in_the_run_folder_go_away() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    workshop.fit_until("out", &[], 6);
    for file in [".writing-config.toml", ".writing-metrics.jsonl", ".writing-report.html"] {
        fs::write(workshop.path("out").join(file), "half").unwrap();
    }
    for folder in ["out/.writing-final", "out/checkpoints/.writing-step-9"] {
        fs::create_dir_all(workshop.path(folder)).unwrap();
        fs::write(workshop.path(folder).join("model.safetensors"), "half").unwrap();
    }
    workshop.resume("out", &[]).unwrap();
    assert_eq!(workshop.result("out", 12), workshop.result("alone", 12));
    for folder in ["out", "out/checkpoints"] {
        let entries = fs::read_dir(workshop.path(folder)).unwrap().flatten();
        let left: Vec<_> = entries
            .map(|e| e.file_name())
            .filter(|name| name.to_string_lossy().starts_with(".writing"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A run measures with a clock that only goes forward; what the wall clock says of its files does not matter.
#[test]
fn a_clock_that_was_set_back_changes_nothing() {
    let workshop = Workshop::new();
    workshop.fit("alone", &[]).unwrap();
    workshop.fit_until("out", &[], 6);
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    for folder in [
        "out",
        "out/checkpoints",
        "out/checkpoints/step-3",
        "out/checkpoints/step-6",
    ] {
        for entry in fs::read_dir(workshop.path(folder)).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                let file = fs::File::options().append(true).open(entry.path()).unwrap();
                file.set_modified(tomorrow).unwrap();
            }
        }
    }
    let outcome = workshop.resume("out", &[]).unwrap();
    assert!(outcome.seconds > 0.0 && outcome.seconds < 3600.0, "{}", outcome.seconds);
    assert_eq!(workshop.result("out", 12), workshop.result("alone", 12));
    let rates = workshop
        .metrics("out")
        .into_iter()
        .filter_map(|line| line["tokens_per_s"].as_f64());
    assert!(rates.into_iter().all(|rate| rate > 0.0 && rate.is_finite()));
}
