//! `cargo xtask bench`: every technique of the field on one ground, with equal data, order, tokens and steps.
//!
//! ```text
//! cargo xtask bench                                            the embedded model and its lessons
//! cargo xtask bench --config configs/compare-e2e.toml --model DIR --data FILE --valid FILE --general FILE
//! ```
//!
//! Each technique's learning rate is searched with short runs first ([`search`]); then all run with the first seed, are timed one by
//! one, and run with the second seed and so on, so that a comparison that is cut off (`--budget MINUTES`) has whole rows. Results go to `--out`
//! (`benches/results/DEVICE/DATE-COMMIT`): one line per run as soon as it is finished, a table, a page and a picture. The same command again goes on
//! where it stopped. `--record` makes the README's table and the guide's figures of them.

mod beside;
mod catalog;
mod ground;
mod journal;
mod page;
mod record;
mod request;
mod rows;
mod search;
mod svg;
mod table;
mod trial;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use self::catalog::{Rate, Start, Technique};
use self::ground::Ground;
use self::journal::Journal;
use self::request::Request;
use self::rows::Results;
use self::trial::{Bench, object};
use super::program::{Program, set};
use crate::{Outcome, shell};

pub fn run(args: &[String]) -> Outcome {
    let request = Request::parse(args)?;
    let name = Ground::name(&request.config);
    let threads = cores() / request.jobs();
    let ft = Program::build(&request.profile)?.with_threads(threads.max(1));
    let ground = request.ground();
    let out = match &request.out {
        Some(out) => out.clone(),
        None => shell::root()
            .join("benches/results")
            .join(device(&ft, &ground)?)
            .join(today()?),
    };
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let path = out.join(format!("{name}.jsonl"));
    let journal = Journal::open(&path, &object(conditions(&request)?))?;
    let work = shell::root().join("target/bench").join(&name);
    let bench = Bench {
        ft,
        ground,
        journal,
        work,
    };
    let outcome = measure(&bench, &request);
    if let Some(results) = Results::of(&bench.journal.lines()) {
        write(&out, &name, &results)?;
        print!("{}", table::whole(&results));
    }
    outcome?;
    match request.keep {
        true => record::record(&path),
        false => Ok(()),
    }
}

/// The rounds: learning rates, then a seed after the other; what needs the tuned model comes behind it.
fn measure(bench: &Bench, request: &Request) -> Outcome {
    let until = Deadline(request.budget.map(|minutes| (Instant::now(), minutes * 60.0)));
    let chosen = request.techniques()?;
    bench.base()?;
    let (first, second): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|t| t.start == Start::Model);
    let jobs = request.jobs();
    let searched = |techniques: &[&'static Technique]| -> Vec<_> {
        techniques.iter().copied().filter(|t| t.rate == Rate::Own).collect()
    };
    let round = |techniques: &[&'static Technique], seed: Option<u64>| {
        each(techniques, jobs, &until, |technique| {
            let rate = bench.rate(technique)?;
            match (seed, rate) {
                (Some(seed), Some(rate)) => bench.run(technique, seed, rate),
                _ => Ok(()),
            }
        })
    };
    round(&searched(&first), None)?;
    round(&first, Some(trial::FIRST))?;
    round(&searched(&second), None)?;
    round(&second, Some(trial::FIRST))?;
    let all = [first, second].concat();
    each(&all, 1, &until, |technique| match bench.rate(technique)? {
        Some(rate) => {
            bench.time(technique, rate)?;
            let python = request.python.as_ref();
            python.map_or(Ok(()), |python| bench.beside(technique, rate, python))
        }
        None => Ok(()),
    })?;
    (trial::FIRST + 1..=request.seeds).try_for_each(|seed| round(&all, Some(seed)))
}

struct Deadline(Option<(Instant, f64)>);

impl Deadline {
    fn check(&self) -> Outcome {
        match self.0 {
            Some((start, seconds)) if start.elapsed().as_secs_f64() > seconds => {
                Err("the budget is spent: the same command goes on from here".into())
            }
            _ => Ok(()),
        }
    }
}

/// Calls `run` for all, so many at a time; the first error ends it when those that run are done.
fn each(
    techniques: &[&'static Technique],
    jobs: usize,
    until: &Deadline,
    run: impl Fn(&'static Technique) -> Outcome + Sync,
) -> Outcome {
    let next = AtomicUsize::new(0);
    let work = || -> Outcome {
        while let Some(technique) = techniques.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = until.check().and_then(|()| run(technique));
            if done.is_err() {
                next.store(techniques.len(), Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let mut outcomes = workers.into_iter().map(|worker| worker.join());
        outcomes.try_for_each(|outcome| outcome.expect("no worker panics"))
    })
}

/// The table, the page and the picture.
fn write(out: &Path, name: &str, results: &Results) -> Outcome {
    let title = format!("Techniques compared: {name}");
    let files = [
        ("md", format!("# {title}\n\n{}", table::whole(results))),
        ("html", page::page(results, &title)),
        ("svg", page::against_memory(results)),
    ];
    for (kind, text) in files {
        let path: PathBuf = out.join(format!("{name}.{kind}"));
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// What must be the same for figures to be compared.
fn conditions(request: &Request) -> Result<serde_json::Value, String> {
    let config = request.config.file_name().unwrap_or_default().to_string_lossy();
    Ok(json!({
        "config": config,
        "settings": request.rest,
        "metric": request.metric,
        "steps": request.steps,
        "search_steps": request.search_steps,
        "seeds": request.seeds,
        "jobs": request.jobs(),
        "machine": machine(),
        "commit": git(&["rev-parse", "--short", "HEAD"])?,
        "date": git(&["log", "-1", "--format=%cs"])?,
    }))
}

fn device(ft: &Program, ground: &Ground) -> Result<String, String> {
    let plan = ground.call(ft, "plan", &["peft.method=lora".into()])?;
    let device = plan["device"].as_str().unwrap_or("cpu");
    Ok(device.split(':').next().unwrap_or(device).to_owned())
}

/// Folder of results of this commit.
fn today() -> Result<String, String> {
    git(&["log", "-1", "--format=%cs-%h"])
}

fn git(args: &[&str]) -> Result<String, String> {
    let mut git = std::process::Command::new("git");
    let text = shell::output(git.current_dir(shell::root()).args(args))?;
    Ok(text.trim().to_owned())
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let wide = if info.contains("avx512f") { "AVX-512" } else { "AVX2" };
    match model {
        Some((_, model)) => format!("{} cores of an {model} ({wide})", cores()),
        None => format!("{} cores, {}", cores(), std::env::consts::ARCH),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
