//! `kill -9` at a random moment leaves a run that resumes to the same result.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use ft_train::{FitOptions, Plan, Resume, RunConfig, fit};

use crate::train_support::Workshop;

/// Set for the child process: the workshop to train in.
const CHILD: &str = "FT_TEST_KILLED_RUN";
/// And its number of steps.
const STEPS: &str = "FT_TEST_KILLED_STEPS";

/// Enough steps that a kill usually falls among them, with a checkpoint after every one, so that it often falls into writing
/// one.
const SETS: [&str; 4] = [
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
    let steps = std::env::var(STEPS).unwrap().parse().unwrap();
    let plan = Plan::resolve(config(&dir, "killed", steps), &Device::flex(), "cpu").unwrap();
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

fn config(dir: &Path, out: &str, steps: usize) -> RunConfig {
    let mut sets: Vec<String> = SETS.map(str::to_owned).to_vec();
    sets.push(format!("train.steps={steps}"));
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

fn spawn(dir: &Path, steps: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["train_kill::child", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .env(STEPS, steps.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_runs_resume_to_the_same_weights() {
    let cut = killed_and_resumed(4, 60, 120);
    assert!(cut > 0, "no kill fell into a run");
}

/// `cargo xtask soak [ROUNDS]`.
#[test]
#[ignore = "takes minutes"]
fn soak() {
    let rounds = std::env::var("FT_SOAK_ROUNDS").map_or(50, |rounds| rounds.parse().expect("a number of rounds"));
    let started = Instant::now();
    let cut = killed_and_resumed(rounds, 30 * rounds as usize, 300);
    println!(
        "{cut} of {rounds} kills fell into the run of {} steps; {:.0} s; the weights are those of the run left alone",
        30 * rounds,
        started.elapsed().as_secs_f64()
    );
    assert!(cut >= rounds as usize / 2, "the run ended before most kills");
}

/// Kills a run `rounds` times, each up to `longest` milliseconds after it has a checkpoint, and holds what it ends with
/// against the run left alone. How many kills fell into the run.
fn killed_and_resumed(rounds: u32, steps: usize, longest: u32) -> usize {
    let workshop = Workshop::new();
    let dir = workshop.dir.path();
    let alone = Plan::resolve(config(dir, "alone", steps), &Device::flex(), "cpu").unwrap();
    fit(alone, FitOptions::default()).unwrap();

    let mut cut = 0;
    for _ in 0..rounds {
        let mut child = spawn(dir, steps);
        let waiting = Instant::now();
        while !has_checkpoint(dir) && child.try_wait().unwrap().is_none() {
            assert!(waiting.elapsed() < Duration::from_secs(120), "no checkpoint appears");
            std::thread::sleep(Duration::from_millis(2));
        }
        // Whatever the machine's speed, the clock's low digits make the moment a different one each time.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let moment = now.subsec_micros() % longest;
        std::thread::sleep(Duration::from_millis(u64::from(moment)));
        cut += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap(); // SIGKILL: no handler, no destructor
        child.wait().unwrap();
        if workshop.path("killed/final").exists() {
            break;
        }
    }
    if !workshop.path("killed/final").exists() {
        let plan = Plan::resolve(config(dir, "killed", steps), &Device::flex(), "cpu").unwrap();
        let resume = has_checkpoint(dir).then_some(Resume::Latest);
        let options = FitOptions {
            resume,
            ..FitOptions::default()
        };
        fit(plan, options).unwrap();
    }
    assert_eq!(workshop.result("killed", steps), workshop.result("alone", steps));
    assert_eq!(workshop.curve("killed"), workshop.curve("alone"));
    let left = std::fs::read_dir(workshop.path("killed/checkpoints"))
        .unwrap()
        .flatten();
    let names: Vec<_> = left.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|n| n.starts_with("step-")), "no leftovers: {names:?}");
    cut
}
