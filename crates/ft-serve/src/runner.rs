//! Runs that clients start, stop and resume, and the plans that they look at: processes of the program itself.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::draft::Draft;
use crate::error::ApiError;
use crate::http::Client;
use crate::runs::{self, LOG, START};

/// Where a plan's files lie for as long as it is made, in the folder of runs.
const PLAN: &str = ".plan";
/// Most time for a plan.
const PLAN_TIME: Duration = Duration::from_secs(120);
/// Runs at once.
const MOST: usize = 4;
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The program whose verbs `plan` and `train` are called.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Options that both verbs are given.
    pub arguments: Vec<String>,
    /// An environment variable that is nothing of theirs: the server's key.
    pub secret: Option<String>,
}

/// The processes that were started for clients.
#[derive(Debug)]
pub struct Runner {
    folder: PathBuf,
    program: Program,
    started: Mutex<BTreeMap<String, Started>>,
    /// Held by who makes a plan: one at a time.
    planning: Mutex<()>,
}

#[derive(Debug)]
struct Started {
    child: Child,
    status: Option<ExitStatus>,
    stopping: bool,
}

impl Started {
    fn runs(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or(None);
        }
        self.status.is_none()
    }

    fn state(&mut self) -> &'static str {
        match (self.runs(), self.status.and_then(|status| status.code())) {
            (true, _) if self.stopping => "stopping",
            (true, _) => "running",
            (false, Some(0)) => "finished",
            // 128 and the signal.
            (false, Some(130 | 143)) => "stopped",
            (false, _) => "failed",
        }
    }
}

impl Runner {
    /// For runs in `folder`, an absolute path.
    pub fn new(folder: PathBuf, program: Program) -> Self {
        Self {
            folder,
            program,
            started: Mutex::default(),
            planning: Mutex::default(),
        }
    }

    /// Where the runs lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn started(&self) -> MutexGuard<'_, BTreeMap<String, Started>> {
        self.started.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What `ft plan --json` prints for a draft, and what it says; given up when the client has gone.
    pub fn plan(&self, draft: &Draft, client: Client<'_>) -> Result<Value, ApiError> {
        let _turn = self.planning.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = Place::new(self.folder.join(PLAN)).map_err(|e| self.broken(e))?;
        let file = place.0.join(format!("{}.toml", draft.name));
        let [printed, said] = ["printed", "said"].map(|name| place.0.join(name));
        let make = || -> io::Result<Option<ExitStatus>> {
            fs::write(&file, &draft.text)?;
            let mut command = self.command("plan", &file);
            command
                .arg("--json")
                .stdout(File::create(&printed)?)
                .stderr(File::create(&said)?);
            let mut child = command.spawn()?;
            let ended = wait(&mut child, PLAN_TIME, || client.listens());
            if ended.is_none() {
                child.kill()?;
                child.wait()?;
            }
            Ok(ended)
        };
        let ended = make().map_err(|e| self.broken(e))?;
        if ended.is_none() {
            return Err(ApiError::new(504, "the plan was not made in time"));
        }
        let plan: Option<Value> = fs::read(&printed)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let said = String::from_utf8_lossy(&fs::read(&said).unwrap_or_default()).into_owned();
        let said = said.replace(&format!("{}/", place.0.display()), "");
        Ok(json!({ "plan": plan, "said": said.trim(), "config": draft.text }))
    }

    /// Starts a run in a folder of its own.
    pub fn start(&self, draft: &Draft) -> Result<(), ApiError> {
        let mut started = self.started();
        room(&mut started, &draft.name)?;
        let run = self.folder.join(&draft.name);
        let file = run.join(START);
        // A start that failed before its first step may be tried again.
        if run.exists() && (!file.is_file() || runs::is_run(&run)) {
            let why = format!(
                "there is a folder \"{}\" already; take another name, or resume the run",
                draft.name
            );
            return Err(ApiError::new(409, why).with_param("name"));
        }
        let written = fs::create_dir_all(&run).and_then(|()| fs::write(&file, &draft.text));
        written.map_err(|e| self.broken(e))?;
        self.train(&mut started, &draft.name, &file, &[])
    }

    /// Goes on with a run from its newest checkpoint.
    pub fn resume(&self, name: &str) -> Result<(), ApiError> {
        let mut started = self.started();
        room(&mut started, name)?;
        let run = self.folder.join(name);
        // Wherever the run was made: it goes on where it lies.
        let out = format!("train.out={}", run.display());
        self.train(
            &mut started,
            name,
            &run.join("config.toml"),
            &["--resume", "--set", &out],
        )
    }

    fn train(
        &self,
        started: &mut BTreeMap<String, Started>,
        name: &str,
        file: &Path,
        options: &[&str],
    ) -> Result<(), ApiError> {
        let log = self.folder.join(name).join(LOG);
        let spawn = || -> io::Result<Child> {
            let log = OpenOptions::new().create(true).append(true).open(log)?;
            let mut command = self.command("train", file);
            command
                .args(options)
                .arg("--plain")
                .stdout(log.try_clone()?)
                .stderr(log);
            command.spawn()
        };
        let child = spawn().map_err(|e| self.broken(e))?;
        let begun = Started {
            child,
            status: None,
            stopping: false,
        };
        started.insert(name.into(), begun);
        Ok(())
    }

    /// Asks a run to save a checkpoint and end.
    pub fn stop(&self, name: &str) -> Result<(), ApiError> {
        let mut started = self.started();
        let run = started.get_mut(name).and_then(|run| run.runs().then_some(run));
        let Some(run) = run else {
            let why = format!("\"{name}\" does not run, or was not started here");
            return Err(ApiError::new(409, why));
        };
        // A second signal would end it without saving.
        if !run.stopping {
            terminate(&mut run.child);
            run.stopping = true;
        }
        Ok(())
    }

    /// Names and states of what was started here.
    pub fn states(&self) -> BTreeMap<String, &'static str> {
        let mut started = self.started();
        started
            .iter_mut()
            .map(|(name, run)| (name.clone(), run.state()))
            .collect()
    }

    /// Asks all runs to save and end.
    pub fn stop_all(&self) {
        for run in self.started().values_mut() {
            if run.runs() && !run.stopping {
                terminate(&mut run.child);
                run.stopping = true;
            }
        }
    }

    /// Waits for the end of all runs, `limit` at most; those that take longer end on their own.
    pub fn wait(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while Instant::now() < end && self.started().values_mut().any(Started::runs) {
            sleep(LOOK);
        }
    }

    /// Relative paths of a configuration start at the folder of runs.
    fn command(&self, verb: &str, file: &Path) -> Command {
        let mut command = Command::new(&self.program.path);
        command.arg(verb).arg(file).args(&self.program.arguments);
        command.current_dir(&self.folder).stdin(Stdio::null());
        if let Some(secret) = &self.program.secret {
            command.env_remove(secret);
        }
        // Ctrl-C in the server's terminal is for the server, which then stops its runs in order.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn broken(&self, error: io::Error) -> ApiError {
        ApiError::new(500, format!("{}: {error}", self.folder.display()))
    }
}

/// Whether one more may run under this name.
fn room(started: &mut BTreeMap<String, Started>, name: &str) -> Result<(), ApiError> {
    let running: Vec<&String> = started
        .iter_mut()
        .filter_map(|(name, run)| run.runs().then_some(name))
        .collect();
    if running.iter().any(|own| *own == name) {
        return Err(ApiError::new(409, format!("\"{name}\" runs already")));
    }
    match running.len() < MOST {
        true => Ok(()),
        false => Err(ApiError::new(
            409,
            format!("{MOST} runs are under way, which is all that may be; stop one first"),
        )),
    }
}

/// Waits for the end of a process for as long as `limit` and `wanted` say.
fn wait(child: &mut Child, limit: Duration, wanted: impl Fn() -> bool) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    while Instant::now() < end && wanted() {
        match child.try_wait() {
            Ok(None) => sleep(LOOK),
            Ok(ended) => return ended,
            Err(_) => return None,
        }
    }
    None
}

#[cfg(unix)]
fn terminate(child: &mut Child) {
    if let Ok(id) = libc::pid_t::try_from(child.id()) {
        // SAFETY: a system call on two numbers. The process was not waited for, so that the number is still its own.
        unsafe { libc::kill(id, libc::SIGTERM) };
    }
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) {
    // There is no gentler way here; the newest checkpoint is what is left.
    let _ = child.kill();
}

/// A folder that is there for as long as it is used.
struct Place(PathBuf);

impl Place {
    fn new(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is written over the next time.
        let _ = fs::remove_dir_all(&self.0);
    }
}
