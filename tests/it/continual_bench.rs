//! Every strategy on the four tasks of the embedded grammar: `cargo xtask bench continual`. As many runs at a time as there are cores: what
//! they come to does not depend on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use ft_embedded::grammar::Task;
use ft_embedded::recipe;
use ft_train::continual::StrategyConfig;
use ft_train::{Error, FitOptions, Plan, RunConfig, fit};
use serde_json::{Value, json};

use crate::continual_results::{self, Line};

/// Orders in which the tasks come.
const ORDERS: [[usize; 4]; 3] = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]];

/// What trains, with its learning rate.
const METHODS: [(&str, &str); 2] = [
    ("lora", "method = \"lora\"\nrank = 16\nalpha = 32\n[optim]\nlr = 3e-3\n"),
    ("full", "method = \"full\"\n[optim]\nlr = 1e-3\n"),
];

/// Where the lines of `benches/results/continual.jsonl` go, if anywhere.
const RECORD: &str = "FT_BENCH_RECORD";

/// `FT_BENCH_SET` holds settings of single strategies, `ewc:continual.lambda=10;replay:continual.ratio=0.2`.
const SETTINGS: &str = "FT_BENCH_SET";

/// A comma-separated list of the environment, or everything.
fn chosen(key: &str, all: &[&'static str]) -> Vec<&'static str> {
    let named = std::env::var(key).ok();
    let wanted = |name: &&&str| {
        named
            .as_ref()
            .is_none_or(|list| list.split(',').any(|one| one == **name))
    };
    all.iter().filter(wanted).copied().collect()
}

fn number(key: &str, default: usize) -> usize {
    std::env::var(key).map_or(default, |text| text.parse().expect("a number"))
}

/// One run to come.
struct Job {
    method: &'static str,
    options: &'static str,
    strategy: &'static str,
    /// Index in [`ORDERS`].
    order: usize,
}

#[test]
#[ignore = "takes minutes"]
fn bench() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let steps = number("FT_BENCH_STEPS", 25);
    let orders = number("FT_BENCH_ORDERS", ORDERS.len()).min(ORDERS.len());
    let methods = chosen("FT_BENCH_METHODS", &METHODS.map(|(name, _)| name));
    let strategies = chosen("FT_BENCH_STRATEGIES", StrategyConfig::NAMES);
    let mut jobs = Vec::new();
    for (method, options) in METHODS.into_iter().filter(|(name, _)| methods.contains(name)) {
        for strategy in &strategies {
            jobs.extend((0..orders).map(|order| Job {
                method,
                options,
                strategy,
                order,
            }));
        }
    }
    let started = Instant::now();
    let lines = all(&jobs, &|job| measure(dir.path(), job, steps));
    println!(
        "{steps} steps of 16 samples for each of 4 tasks, {orders} orders, {:.0} s\n",
        started.elapsed().as_secs_f64()
    );
    println!("{}", continual_results::table(&lines));
    if let Some(path) = std::env::var_os(RECORD).map(PathBuf::from) {
        continual_results::keep(&path, lines);
    }
}

/// The lines of the jobs in their order, made by as many threads as there are cores.
fn all(jobs: &[Job], measure: &(dyn Fn(&Job) -> Line + Sync)) -> Vec<Line> {
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((number, job)) = jobs.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let line = measure(job);
            eprintln!("{}", line.0);
            lines.lock().unwrap().push((number, line));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut lines = lines.into_inner().unwrap();
    lines.sort_by_key(|(number, _)| *number);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// What one run came to, or why there is none.
fn measure(dir: &Path, job: &Job, steps: usize) -> Line {
    let mut line =
        json!({ "method": job.method, "strategy": job.strategy, "order": job.order, "steps_per_task": steps });
    let found = match run(dir, job, steps) {
        Ok(scores) => ("scores", scores),
        Err(Error::Plan(why)) => ("refused", why.join("; ").into()),
        Err(error) => panic!("{} {}: {error}", job.method, job.strategy),
    };
    line[found.0] = found.1;
    Line(line)
}

fn run(dir: &Path, job: &Job, steps: usize) -> Result<Value, Error> {
    let outcome = fit(plan(dir, job, steps, &[])?, FitOptions::default())?;
    fs::remove_dir_all(&outcome.out).unwrap();
    Ok(serde_json::to_value(outcome.continual.expect("a run over tasks")).unwrap())
}

fn plan(dir: &Path, job: &Job, steps: usize, more_sets: &[&str]) -> Result<Plan, Error> {
    let Job { options, strategy, .. } = *job;
    let task = |number: &usize| {
        let name = Task::ALL[*number].name();
        format!("[[task]]\nname = \"{name}\"\ntrain = \"{name}.jsonl\"\nvalid = \"{name}_valid.jsonl\"\n")
    };
    let tasks: String = ORDERS[job.order].iter().map(task).collect();
    let out = dir.join(format!("{}-{strategy}-{}", job.method, job.order));
    let more = std::env::var(SETTINGS).unwrap_or_default();
    let text = format!(
        "[model]\npath = \"base\"\n[data]\nformat = \"prompt-completion\"\nmax_length = 256\n[continual]\nstrategy = \
         \"{strategy}\"\nsteps_per_task = {steps}\n[schedule]\nkind = \"cosine\"\nwarmup = 0.1\n[train]\nbatch_size = 16\nout = \
         \"out\"\n[eval]\nsamples = 0\nmax_samples = 64\ngeneral = \"general.jsonl\"\n{tasks}[peft]\n{options}"
    );
    let mut sets = vec![format!("train.out={}", out.display())];
    let own = more
        .split(';')
        .filter_map(|set| set.strip_prefix(&format!("{strategy}:")));
    sets.extend(own.chain(more_sets.iter().copied()).map(str::to_owned));
    let config = RunConfig::parse(&dir.join("run.toml"), text, &sets)?;
    Plan::resolve(config, &Device::flex(), "cpu")
}

/// What a strategy costs beside `sequential`: the processor time of a step, which other work on the machine hardly changes, from runs of two
/// lengths, the shorter of `FT_BENCH_STEPS` steps for each task; what the ends of three tasks take, in steps; and the memory of the plans,
/// without the program itself. By default tasks feed as many samples as Fisher information and memories want.
#[test]
#[ignore = "takes minutes"]
fn cost() {
    let short = number("FT_BENCH_STEPS", 17);
    let lengths = [short, short + 12];
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let (methods, strategies) = (
        chosen("FT_BENCH_METHODS", &METHODS.map(|(name, _)| name)),
        chosen("FT_BENCH_STRATEGIES", StrategyConfig::NAMES),
    );
    println!("| | strategy | step | ends of tasks | memory |\n|---|---|---|---|---|");
    for (method, options) in METHODS.into_iter().filter(|(name, _)| methods.contains(name)) {
        let cost = |strategy: &'static str| {
            let job = Job {
                method,
                options,
                strategy,
                order: 0,
            };
            let costs = lengths.map(|steps| processor_time(dir.path(), &job, steps));
            let [(short, _), (long, bytes)] = [costs[0].as_ref().ok()?, costs[1].as_ref().ok()?];
            let step = (long - short) / (4 * (lengths[1] - lengths[0])) as f64;
            Some((step, short - step * (4 * lengths[0]) as f64, *bytes))
        };
        let (plain, fixed, memory) = cost("sequential").expect("the floor");
        for strategy in &strategies {
            let Some((step, own, bytes)) = cost(strategy) else {
                continue;
            };
            println!(
                "| {method} | {strategy} | {:.2} | {:.0} | {:.2} |",
                step / plain,
                ((own - fixed) / plain).max(0.0),
                bytes as f64 / memory as f64
            );
        }
    }
}

/// Seconds of a run, and bytes of its plan.
fn processor_time(dir: &Path, job: &Job, steps: usize) -> Result<(f64, u64), Error> {
    let plan = plan(dir, job, steps, &["eval.max_samples=4"])?;
    let bytes = plan.bytes.total() - plan.bytes.runtime;
    let before = processor_seconds();
    let outcome = fit(plan, FitOptions::default())?;
    let seconds = processor_seconds() - before;
    fs::remove_dir_all(&outcome.out).unwrap();
    Ok((seconds, bytes))
}

/// Of all threads of this process, in ticks of 1/100 s (proc(5)).
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = |field: usize| fields.split_whitespace().nth(field).and_then(|n| n.parse::<f64>().ok());
    // Fields 14 and 15, where the state behind the name is the third.
    (ticks(11).expect("utime") + ticks(12).expect("stime")) / 100.0
}

fn write(dir: &Path) {
    ft_embedded::unpack(&dir.join("base")).unwrap();
    let lines = |name: &str, lines: Vec<String>| fs::write(dir.join(name), lines.join("\n")).unwrap();
    for task in Task::ALL {
        let [train, valid] = recipe::task(task);
        let text = |lesson| serde_json::to_string(&lesson).unwrap();
        lines(&format!("{}.jsonl", task.name()), train.map(text).collect());
        lines(&format!("{}_valid.jsonl", task.name()), valid.map(text).collect());
    }
    let general = recipe::corpus_valid().take(40);
    let text = |text: String| serde_json::json!({ "text": text }).to_string();
    lines("general.jsonl", general.map(text).collect());
}
