//! Running the built program, and a folder with something to run it on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// What a call left behind.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// stdout of a call that must succeed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }
}

/// Runs `ft`; its embedded model is unpacked under cargo's own folder for tests.
pub fn ft(args: &[&str]) -> Done {
    ft_with(args, &[])
}

/// The same in another environment.
pub fn ft_with(args: &[&str], environment: &[(&str, &str)]) -> Done {
    let done = command(args).envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done {
        code: done.status.code().unwrap_or(-1),
        stdout: text(done.stdout),
        stderr: text(done.stderr),
    }
}

/// The one JSON object on stdout of a call that must succeed.
pub fn json(args: &[&str]) -> Value {
    let text = ft(args).ok();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{text}"))
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ft"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ft-cache");
    command
        .args(args)
        .env("FT_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("FT_LOG")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null());
    command
}

/// A temporary folder with a configuration of a six-step run on the embedded model and its own small data.
pub struct Bench {
    dir: tempfile::TempDir,
    /// The configuration file; its run folder is `run` in the temporary folder.
    pub config: String,
    /// What is in it.
    pub text: String,
    /// Twenty held-out samples.
    pub valid: String,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Self {
            dir,
            config: String::new(),
            text: String::new(),
            valid: String::new(),
        };
        let lines = |numbers: std::ops::Range<usize>| -> String {
            let line = |n| {
                format!(
                    "{{\"prompt\": \"Who has key {n}? \", \"completion\": \"Door {} has it.\"}}\n",
                    n % 7
                )
            };
            numbers.map(line).collect()
        };
        bench.write("train.jsonl", &lines(0..60));
        bench.valid = bench.write("valid.jsonl", &lines(60..80));
        let out = bench.out();
        bench.text = format!(
            "[model]\npath = 'embedded:tiny'\n[peft]\nmethod = 'lora'\nrank = 4\n[data]\ntrain = 'train.jsonl'\n\
             valid = 'valid.jsonl'\n[optim]\nlr = 5e-3\n[train]\nout = '{out}'\nsteps = 6\nbatch_size = 4\n[eval]\nsamples = 1\n\
             [generate]\nmax_new_tokens = 8\n"
        );
        bench.config = bench.write("run.toml", &bench.text);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn out(&self) -> String {
        self.path("run").display().to_string()
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Starts a call that is not waited for.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_on(args, |command| {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        })
    }

    /// The same with its streams where `stdio` puts them.
    pub fn start_on(&self, args: &[&str], stdio: impl FnOnce(&mut Command)) -> Running {
        let mut command = command(args);
        stdio(&mut command);
        Running(Some(command.spawn().unwrap()))
    }

    /// Waits until the run has logged this many steps.
    pub fn wait_for_steps(&self, steps: usize) {
        self.wait_for("\"loss\"", steps);
    }

    /// Waits until this many lines of `metrics.jsonl` hold `key`.
    pub fn wait_for(&self, key: &str, lines: usize) {
        let metrics = self.path("run").join("metrics.jsonl");
        for _ in 0..15_000 {
            let text = fs::read_to_string(&metrics).unwrap_or_default();
            if text.lines().filter(|l| l.contains(key)).count() >= lines {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{key} was not logged in five minutes");
    }

    /// A file of `count` short samples.
    pub fn samples(&self, name: &str, count: usize) -> String {
        let line = |n| {
            format!(
                "{{\"prompt\": \"Who has key {n}? \", \"completion\": \"Door {} has it.\"}}\n",
                n % 7
            )
        };
        self.write(name, &(0..count).map(line).collect::<String>())
    }
}

/// Settings of a run that only a signal ends, and that tells of every step.
#[cfg(unix)]
pub const ENDLESS: [&str; 4] = ["--set", "train.steps=100000", "--set", "train.log_every=1"];

/// A call that is going on; it does not outlive its test.
pub struct Running(Option<Child>);

impl Running {
    pub fn signal(&mut self, name: &str) {
        let id = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub fn end(mut self) -> Done {
        let done = self.0.take().unwrap().wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done {
            code: done.status.code().unwrap_or(-1),
            stdout: text(done.stdout),
            stderr: text(done.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
