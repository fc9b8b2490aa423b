//! `kill -9` in the second task, or while the Fisher information is estimated, leaves a run over tasks that resumes to the same result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use burn::tensor::Device;
use ft_train::{FitOptions, Plan, Resume, RunConfig, fit};
use serde_json::Value;

use crate::train_support::Workshop;
use crate::train_tasks::{THREE, with_tasks};

/// Set for the child process: the workshop to train in.
const CHILD: &str = "FT_TEST_KILLED_TASKS";

/// Steps of each task.
const STEPS: usize = 12;

/// Not a test of its own: the process that is killed. Without the variable it does nothing.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    run(&PathBuf::from(dir), "killed");
}

fn run(dir: &Path, out: &str) {
    let sets = [
        "optim.lr=2e-2".to_owned(),
        format!("train.eval_every={STEPS}"),
        "train.save_every=1".into(),
        "train.keep=3".into(),
        "eval.samples=0".into(),
        format!("train.out={}", dir.join(out).display()),
    ];
    let config = RunConfig::load(&dir.join("run.toml"), &sets).unwrap();
    let each = config.continual.as_ref().and_then(|section| section.steps_per_task);
    let steps = format!("train.steps={}", each.map_or(3, |_| config.task.len()) * STEPS);
    let config = RunConfig::load(&dir.join("run.toml"), &[&sets[..], &[steps]].concat()).unwrap();
    let plan = Plan::resolve(config, &Device::flex(), "cpu").unwrap();
    let resume = newest(&dir.join(out)).map(|_| Resume::Latest);
    let options = FitOptions {
        resume,
        ..FitOptions::default()
    };
    fit(plan, options).unwrap();
}

/// The step of the newest checkpoint.
fn newest(run: &Path) -> Option<usize> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let steps = entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok());
    steps.max()
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["continual_kill::child", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for `ripe`, or for the end of the child.
fn wait_for(child: &mut Child, ripe: impl Fn() -> bool) {
    let waiting = Instant::now();
    while !ripe() && child.try_wait().unwrap().is_none() {
        assert!(waiting.elapsed() < Duration::from_secs(240), "the run stands still");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Up to `longest` milliseconds, others each time.
fn moment(longest: u32) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Duration::from_millis(u64::from(now.subsec_micros() % longest))
}

fn kill(mut child: Child) {
    child.kill().unwrap(); // SIGKILL: no handler, no destructor
    child.wait().unwrap();
}

/// A workshop whose tasks are learned with these tables, and the run left alone.
fn left_alone(tables: &str) -> Workshop {
    let workshop = with_tasks(tables);
    run(workshop.dir.path(), "alone");
    workshop
}

/// Resumes what was killed, and holds what it ends with against the run left alone.
fn resumed_equals_left_alone(workshop: &Workshop, options: &str) {
    let dir = workshop.dir.path();
    if !workshop.path("killed/final").exists() {
        run(dir, "killed");
    }
    let last = newest(&workshop.path("alone")).unwrap();
    assert_eq!(
        workshop.result("killed", last),
        workshop.result("alone", last),
        "{options}"
    );
    assert_eq!(workshop.curve("killed"), workshop.curve("alone"), "{options}");
    let state = format!("checkpoints/step-{last}/");
    let files = [
        "continual.json".to_owned(),
        state.clone() + "continual.safetensors",
        state + "task_adapters.safetensors",
    ];
    for file in files.iter().filter(|file| workshop.path("alone").join(file).exists()) {
        let bytes = |out: &str| fs::read(workshop.path(out).join(file)).unwrap();
        assert!(bytes("killed") == bytes("alone"), "{options}: {file}");
    }
}

#[test]
fn killed_in_the_second_task() {
    let strategies = [
        "strategy = \"replay\"\nratio = 0.6\nbuffer = 10",
        "strategy = \"gem\"\nmemories = 6",
        "strategy = \"der\"\nbuffer = 10\ntop_k = 5",
        "strategy = \"olora\"",
        "strategy = \"replay\"\nbetween_tasks = \"fold\"",
    ];
    for options in strategies {
        let workshop = left_alone(&format!("{THREE}\n[continual]\n{options}\n"));
        let killed = workshop.path("killed");
        let kill_once = || {
            let before = newest(&killed).unwrap_or(0).max(STEPS);
            let mut child = spawn(workshop.dir.path());
            wait_for(&mut child, || newest(&killed).is_some_and(|step| step > before));
            std::thread::sleep(moment(20));
            kill(child);
            newest(&killed).is_some_and(|step| (STEPS..2 * STEPS).contains(&step))
        };
        // A machine with much else to do may be late with every kill.
        let in_second = (0..5).any(|_| {
            let _ = fs::remove_dir_all(&killed);
            let fell = [kill_once(), kill_once()];
            fell.contains(&true)
        });
        assert!(in_second, "{options}: no kill fell into the second task");
        resumed_equals_left_alone(&workshop, options);
    }
}

/// Five tasks, and a kill in the third.
#[test]
fn killed_in_the_third_task_of_five() {
    let more = ["four", "five"]
        .map(|name| format!("[[task]]\nname = \"{name}\"\ntrain = \"shift.jsonl\"\nvalid = \"shift_valid.jsonl\"\n"));
    for options in [
        "strategy = \"online_ewc\"\nlambda = 20\nfisher_samples = 5",
        "strategy = \"agem\"\nmemories = 6",
    ] {
        let workshop = left_alone(&format!(
            "{THREE}{}\n[continual]\n{options}\nsteps_per_task = {STEPS}\n",
            more.concat()
        ));
        let mut child = spawn(workshop.dir.path());
        wait_for(&mut child, || {
            newest(&workshop.path("killed")).is_some_and(|step| step > 2 * STEPS)
        });
        std::thread::sleep(moment(20));
        kill(child);
        let at = newest(&workshop.path("killed")).unwrap();
        assert!(
            (2 * STEPS..3 * STEPS).contains(&at),
            "{options}: killed after step {at}"
        );
        resumed_equals_left_alone(&workshop, options);
    }
}

/// Between the steps of several adapters, and in the middle of one.
#[test]
fn killed_with_an_adapter_for_each_task() {
    let workshop = left_alone(&format!("{THREE}\n[mixture]\nadapter = \"per_task\"\n"));
    for _ in 0..3 {
        let before = newest(&workshop.path("killed")).unwrap_or(0);
        let mut child = spawn(workshop.dir.path());
        wait_for(&mut child, || {
            newest(&workshop.path("killed")).is_some_and(|step| step > before)
        });
        std::thread::sleep(moment(30));
        kill(child);
    }
    assert!(
        !workshop.path("killed/final").exists(),
        "the run was over before it was killed"
    );
    resumed_equals_left_alone(&workshop, "adapters");
}

#[test]
fn killed_while_the_fisher_information_is_estimated() {
    let options = "strategy = \"ewc\"\nlambda = 20\nfisher = \"true\"\nfisher_samples = 400";
    let workshop = with_tasks(&format!("{THREE}\n[continual]\n{options}\n"));
    // A first task large enough that its estimate takes a while.
    let line = |n: usize| {
        let word = |k: usize| ["a", "b", "c", "d", "e", "f", "g", "h"][(n / 8usize.pow(k as u32)) % 8];
        let (p, q, r) = (word(0), word(1), word(2));
        format!("{{\"prompt\": \"turn {p} {q} {r} into\", \"completion\": \"{r} {q} {p}\"}}\n")
    };
    fs::write(workshop.path("train.jsonl"), (0..400).map(line).collect::<String>()).unwrap();
    let dir = workshop.dir.path();
    run(dir, "alone");
    let (metrics, scores) = (
        workshop.path("killed/metrics.jsonl"),
        workshop.path("killed/continual.json"),
    );
    // The end of the first task was evaluated by this process, and the task is not concluded.
    let estimating = |since: SystemTime| {
        let written = fs::metadata(&metrics).and_then(|data| data.modified());
        let evaluated = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["step"] == STEPS && !line["eval_loss"].is_null()
        };
        written.is_ok_and(|written| written > since)
            && !scores.exists()
            && fs::read_to_string(&metrics).unwrap_or_default().lines().any(evaluated)
    };
    // Once the estimate is over it is over: the run begins anew until a kill falls into it.
    let mut inside = false;
    for _ in 0..20 {
        let _ = fs::remove_dir_all(workshop.path("killed"));
        let since = SystemTime::now();
        let mut child = spawn(dir);
        wait_for(&mut child, || estimating(since) || scores.exists());
        std::thread::sleep(moment(20));
        inside = estimating(since);
        kill(child);
        if inside {
            break;
        }
    }
    assert!(inside, "no kill fell into the estimate");
    resumed_equals_left_alone(&workshop, options);
}
