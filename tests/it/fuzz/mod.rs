//! Inputs that nobody meant: whatever a file holds, reading it ends in a result or in an error in words. No panic, no abort, no
//! hang, no memory out of proportion, and nothing damaged that passes where a checksum stands.
//!
//! A child process of its own runs the cases under a limit of memory, so that one that aborts it or never ends is counted, and the
//! next case goes on. Every case is a function of its target and number. `cargo xtask fuzz CASES [TARGET]` runs more of them.

mod mutate;
mod targets;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use ft_seed::stream;
use targets::{TARGETS, Target};

/// How many cases there are in all, in CI.
const CASES: usize = 2000;
/// Another number than [`CASES`] (for the child process, the case to end before), and a single target.
const CASES_VARIABLE: &str = "FT_FUZZ_CASES";
const TARGET_VARIABLE: &str = "FT_FUZZ_TARGET";
/// The first case, to go on from or to look at one alone.
const FROM_VARIABLE: &str = "FT_FUZZ_FROM";
/// For the child process: where it writes how far it is.
const CHILD: &str = "FT_FUZZ_CHILD";

/// Address space of the child, in KiB.
const MEMORY: usize = 4 << 20;
/// No case takes a hundredth of this.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<usize> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: `{text}` is no number")),
    )
}

#[test]
fn no_input_brings_it_down() {
    let chosen = env::var(TARGET_VARIABLE).ok();
    let targets: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| chosen.as_deref().is_none_or(|name| target.name == name))
        .collect();
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert!(!targets.is_empty(), "{TARGET_VARIABLE} is one of {}", names.join(", "));
    let from = number(FROM_VARIABLE).unwrap_or(0);
    let each = number(CASES_VARIABLE).unwrap_or(CASES).div_ceil(targets.len());
    let mut failures = Vec::new();
    for target in targets {
        let told = run(target, from..from + each);
        println!("{}", told.summary(target, each));
        told.failures.iter().for_each(|failure| println!("  {failure}"));
        assert!(
            told.accepted + told.refused + told.failures.len() == each,
            "every case counts"
        );
        failures.extend(told.failures);
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What came of the cases of a target.
#[derive(Default)]
struct Told {
    accepted: usize,
    refused: usize,
    failures: Vec<String>,
}

impl Told {
    fn summary(&self, target: &Target, cases: usize) -> String {
        format!(
            "{:<20} {cases:>7} cases: {} accepted, {} refused, {} failed",
            target.name,
            self.accepted,
            self.refused,
            self.failures.len()
        )
    }
}

fn run(target: &Target, cases: std::ops::Range<usize>) -> Told {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let mut told = Told::default();
    let mut next = cases.start;
    while next < cases.end {
        let mut child = spawn(target, next, cases.end, &journal);
        let died = wait(&mut child, &journal);
        let text = fs::read_to_string(&journal).unwrap_or_default();
        for line in text.lines() {
            let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
            match what {
                "accepted" => told.accepted += 1,
                "refused" => told.refused += 1,
                "failed" => told.failures.push(rest.to_owned()),
                _ => continue,
            }
            next += 1;
        }
        if let Some(how) = died {
            told.failures.push(format!("{} {next}: {how}", target.name));
            next += 1;
        }
    }
    told
}

fn spawn(target: &Target, from: usize, to: usize, journal: &Path) -> Child {
    fs::write(journal, "").unwrap();
    Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -c 0; ulimit -v {MEMORY}; exec \"$0\" \"$@\""))
        .arg(env::current_exe().unwrap())
        .args(["fuzz::child", "--exact", "--nocapture"])
        .env(TARGET_VARIABLE, target.name)
        .env(FROM_VARIABLE, from.to_string())
        .env(CASES_VARIABLE, to.to_string())
        .env(CHILD, journal)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for the child; how it died, if it did not end by itself.
fn wait(child: &mut Child, journal: &Path) -> Option<String> {
    let length = || fs::metadata(journal).map_or(0, |data| data.len());
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (!status.success()).then(|| format!("ended the process ({status})"));
        }
        if length() != seen {
            (seen, since) = (length(), Instant::now());
        }
        if since.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return Some(format!("not done after {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Not a test of its own: the process that runs the cases. Without the variable it does nothing.
#[test]
fn child() {
    let Some(journal) = env::var_os(CHILD) else { return };
    let name = env::var(TARGET_VARIABLE).unwrap();
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let cases = number(FROM_VARIABLE).unwrap()..number(CASES_VARIABLE).unwrap();
    let mut journal = fs::File::options().append(true).open(journal).unwrap();
    let bench = (target.prepare)();
    for case in cases {
        let mut rng = stream(case as u64, target.name);
        let outcome = catch_unwind(AssertUnwindSafe(|| bench(&mut rng)));
        let line = match outcome {
            Ok(Ok(())) => "accepted".to_owned(),
            Ok(Err(why)) => match judge(&why) {
                None => "refused".to_owned(),
                Some(fault) => format!("failed {name} {case}: {fault}"),
            },
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                format!(
                    "failed {name} {case}: panic: {}",
                    text.unwrap_or_default().replace('\n', " ")
                )
            }
        };
        writeln!(journal, "{line}").unwrap();
    }
}

/// What is wrong with an error.
fn judge(why: &str) -> Option<String> {
    let says_nothing = why.split_whitespace().count() < 3;
    says_nothing.then(|| format!("an error that says nothing: \"{why}\""))
}
