//! Runs that `mpirun` starts: `cargo xtask ci mpi`.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Bench, Done, command};

/// `mpirun -n SIZE ft ARGS`, on however few cores.
fn mpirun(size: usize, args: &[&str]) -> Command {
    let ft = command(args);
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args(["-n", &size.to_string()])
        .arg(ft.get_program())
        .args(ft.get_args());
    for (name, value) in ft.get_envs() {
        match value {
            Some(value) => mpirun.env(name, value),
            None => mpirun.env_remove(name),
        };
    }
    let open_mpi = [
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "OMPI_MCA_rmaps_base_oversubscribe",
    ];
    mpirun.envs(open_mpi.map(|name| (name, "1")));
    mpirun
        .env("OMPI_MCA_hwloc_base_binding_policy", "none")
        .env("RAYON_NUM_THREADS", "1");
    mpirun
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    mpirun
}

fn run(size: usize, args: &[&str]) -> Done {
    ended(mpirun(size, args).spawn().unwrap())
}

/// What a run leaves behind; one that hangs is a failure.
fn ended(mut child: Child) -> Done {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            panic!("mpirun hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = child.wait_with_output().unwrap();
    Done {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// The processes of a run in the order of their numbers.
fn processes(mpirun: &Child) -> Vec<String> {
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))?
            .trim()
            .to_owned();
        let name = status
            .lines()
            .find_map(|line| line.strip_prefix("Name:"))?
            .trim()
            .to_owned();
        (parent == mpirun.id().to_string() && name == "ft").then(|| entry.file_name().to_string_lossy().into_owned())
    };
    let mut found: Vec<String> = fs::read_dir("/proc").unwrap().filter_map(of).collect();
    found.sort_by_key(|pid| pid.parse::<u32>().unwrap_or(0));
    found
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args(["-s", name, pid]).status().unwrap().success());
}

fn losses(bench: &Bench) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.map(|line| {
        (
            line["step"].as_u64().unwrap(),
            line["loss"].as_f64().or(line["eval_loss"].as_f64()),
        )
    });
    lines.filter_map(|(step, loss)| Some((step, loss?))).collect()
}

fn alike(one: &[(u64, f64)], other: &[(u64, f64)]) {
    assert_eq!(one.len(), other.len(), "{one:?}\n{other:?}");
    for ((step, x), (also, y)) in one.iter().zip(other) {
        assert!(
            step == also && (x - y).abs() <= 1e-5 * x.max(1.0),
            "step {step}: {x} and {y}"
        );
    }
}

/// Settings of a run that any number of ranks takes alike, of `steps` steps.
fn sets(steps: usize) -> Vec<String> {
    let all = format!(
        "train.steps={steps} train.log_every=1 train.eval_every=20 train.save_every=2 train.keep=2 train.accumulation=2 optim.kind=sgd optim.lr=0.05 train.tensorboard='' eval.samples=0"
    );
    all.split(' ')
        .flat_map(|set| ["--set".to_owned(), set.to_owned()])
        .collect()
}

fn train<'a>(bench: &'a Bench, sets: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    let own = ["train", &bench.config, "--device", "cpu"];
    own.into_iter()
        .chain(sets.iter().map(String::as_str))
        .chain(more.iter().copied())
        .collect()
}

#[test]
fn processes_take_the_steps_of_one() {
    let (alone, two, four) = (Bench::new(), Bench::new(), Bench::new());
    let sets = sets(6);
    assert_eq!(
        ended(
            command(&train(&alone, &sets, &[]))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        )
        .code,
        0
    );
    for (bench, size) in [(&two, 2), (&four, 4)] {
        let done = run(size, &train(bench, &sets, &["--json"]));
        assert_eq!(done.code, 0, "{}", done.stderr);
        let outcome: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout));
        assert_eq!(outcome["steps"], 6);
        assert!(bench.path("run/final/adapter_model.safetensors").exists());
        alike(&losses(&alone), &losses(bench));
    }
}

#[test]
fn a_signal_to_one_process_saves_once_and_fewer_go_on() {
    let (alone, bench) = (Bench::new(), Bench::new());
    let sets = sets(60);
    assert_eq!(run(2, &train(&alone, &sets, &[])).code, 0);
    let mut size = 4;
    for until in [6, 14] {
        let args = if size == 4 {
            train(&bench, &sets, &[])
        } else {
            train(&bench, &sets, &["--resume"])
        };
        let child = mpirun(size, &args).spawn().unwrap();
        bench.wait_for_steps(until);
        let last = processes(&child).pop().unwrap();
        signal(&last, "TERM");
        let done = ended(child);
        assert_ne!(done.code, 0);
        assert_eq!(done.stderr.matches("stopped after step").count(), 1, "{}", done.stderr);
        size /= 2;
    }
    let rest = ended(
        command(&train(&bench, &sets, &["--resume"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    alike(&losses(&alone), &losses(&bench));
}

#[test]
fn a_process_that_hangs_ends_the_run_and_is_named() {
    let bench = Bench::new();
    let mut sets = sets(100_000);
    sets.extend(["--set".into(), "train.timeout=2".into()]);
    let child = mpirun(2, &train(&bench, &sets, &[])).spawn().unwrap();
    bench.wait_for_steps(4);
    let last = processes(&child).pop().unwrap();
    signal(&last, "STOP");
    let start = Instant::now();
    let done = ended(child);
    assert_ne!(done.code, 0);
    assert!(
        done.stderr.contains("rank 1 has said nothing for 2 s"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("the newest checkpoint is") && done.stderr.contains("step-"),
        "{}",
        done.stderr
    );
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_differs_is_told_at_the_start() {
    let bench = Bench::new();
    let mut other = mpirun(1, &train(&bench, &sets(4), &[]));
    let args: Vec<_> = other.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    // mpirun -n 1 ft .. : -n 1 ft .. --set optim.lr=0.01
    other.arg(":").args(&args).args(["--set", "optim.lr=0.01"]);
    let done = ended(other.spawn().unwrap());
    assert_ne!(done.code, 0);
    assert!(
        done.stderr.contains("optim.lr: rank 0 has 0.05, rank 1 has 0.01"),
        "{}",
        done.stderr
    );
    assert!(!bench.path("run/checkpoints").exists());
}

#[test]
fn several_devices_are_for_one_process() {
    let bench = Bench::new();
    let done = run(2, &["train", &bench.config, "--device", "cpu:0,cpu:1"]);
    assert!(
        done.code != 0 && done.stderr.contains("give each of them one"),
        "{}",
        done.stderr
    );
    assert!(!bench.path("run/checkpoints").exists());
}

/// Random processes killed at random moments; the run that is left ends, goes on with another number of processes, and comes to the same.
fn killed(times: usize) {
    let (alone, bench) = (Bench::new(), Bench::new());
    let sets = sets(60);
    assert_eq!(run(2, &train(&alone, &sets, &[])).code, 0);
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let mut kills = 0;
    while kills < times {
        let size = [2, 3, 4][random(3)];
        let saved = fs::read_dir(bench.path("run/checkpoints")).map_or(0, |folder| folder.count());
        if bench.path("run/final").exists() {
            // Came to its end before it was killed: once more.
            alike(&losses(&alone), &losses(&bench));
            fs::remove_dir_all(bench.path("run")).unwrap();
        }
        let more: &[&str] = if saved > 0 && bench.path("run").exists() {
            &["--resume"]
        } else {
            &[]
        };
        let child = mpirun(size, &train(&bench, &sets, more)).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300 + random(3000) as u64));
        let all = processes(&child);
        if all.len() == size {
            let _ = Command::new("kill").args(["-s", "KILL", &all[random(size)]]).status();
            kills += 1;
        }
        // No hang: this waits for the end.
        let done = ended(child);
        assert!(done.code != 0 || bench.path("run/final").exists(), "{}", done.stderr);
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }
    if !bench.path("run/final").exists() {
        let any = fs::read_dir(bench.path("run/checkpoints")).map_or(0, |folder| folder.count()) > 0;
        let done = run(2, &train(&bench, &sets, if any { &["--resume"] } else { &[] }));
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    alike(&losses(&alone), &losses(&bench));
}

#[test]
fn killed_processes_lose_nothing() {
    killed(3);
}

#[test]
#[ignore = "minutes: cargo xtask soak mpi"]
fn soak() {
    killed(30);
}
