//! `kill -9` at a random moment leaves a run that resumes to the same result.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use ft_train::{FitOptions, Plan, Resume, RunConfig, fit};

use crate::train_support::Workshop;

/// Set for the child process: the workshop to train in.
const CHILD: &str = "FT_TEST_KILLED_RUN";

/// Enough steps that a kill usually falls among them, with a checkpoint after every one, so that it often falls into writing
/// one.
const SETS: [&str; 5] = [
    "train.steps=60",
    "train.save_every=1",
    "train.eval_every=7",
    "train.keep=3",
    "eval.samples=0",
];

/// Not a test of its own: the process that is killed. Without the variable it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = PathBuf::from(dir);
    let plan = Plan::resolve(config(&dir, "killed"), &Device::flex(), "cpu").unwrap();
    let resume = has_checkpoint(&dir).then_some(Resume::Latest);
    fit(
        plan,
        FitOptions {
            resume,
            ..FitOptions::default()
        },
    )
    .unwrap();
}

fn config(dir: &Path, out: &str) -> RunConfig {
    let mut sets: Vec<String> = SETS.map(str::to_owned).to_vec();
    sets.push(format!("train.out={}", dir.join(out).display()));
    RunConfig::load(&dir.join("run.toml"), &sets).unwrap()
}

fn has_checkpoint(dir: &Path) -> bool {
    let mut entries = std::fs::read_dir(dir.join("killed/checkpoints"))
        .into_iter()
        .flatten()
        .flatten();
    entries.any(|e| e.file_name().to_string_lossy().starts_with("step-"))
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["train_kill::child", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_runs_resume_to_the_same_weights() {
    let workshop = Workshop::new();
    let dir = workshop.dir.path();
    fit(
        Plan::resolve(config(dir, "alone"), &Device::flex(), "cpu").unwrap(),
        FitOptions::default(),
    )
    .unwrap();

    let mut cut = 0;
    for round in 0..4u32 {
        let mut child = spawn(dir);
        let waiting = Instant::now();
        while !has_checkpoint(dir) && child.try_wait().unwrap().is_none() {
            assert!(waiting.elapsed() < Duration::from_secs(120), "no checkpoint appears");
            std::thread::sleep(Duration::from_millis(2));
        }
        // Whatever the machine's speed, the clock's low digits make the moment a different one each time.
        let jitter = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .subsec_micros()
            % 120;
        std::thread::sleep(Duration::from_millis(u64::from(jitter * (round + 1))));
        cut += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap(); // SIGKILL: no handler, no destructor
        child.wait().unwrap();
        if workshop.path("killed/final").exists() {
            break;
        }
    }
    assert!(cut > 0, "no kill fell into a run");

    if !workshop.path("killed/final").exists() {
        let plan = Plan::resolve(config(dir, "killed"), &Device::flex(), "cpu").unwrap();
        fit(
            plan,
            FitOptions {
                resume: Some(Resume::Latest),
                ..FitOptions::default()
            },
        )
        .unwrap();
    }
    assert_eq!(workshop.result("killed", 60), workshop.result("alone", 60));
    assert_eq!(workshop.curve("killed"), workshop.curve("alone"));
    let left = std::fs::read_dir(workshop.path("killed/checkpoints"))
        .unwrap()
        .flatten();
    let names: Vec<_> = left.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|n| n.starts_with("step-")), "no leftovers: {names:?}");
}
