//! Every strategy on the four tasks of the embedded grammar: `cargo xtask bench continual`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use ft_embedded::grammar::Task;
use ft_embedded::recipe;
use ft_train::continual::StrategyConfig;
use ft_train::continual::scores::ContinualScores;
use ft_train::{FitOptions, Plan, RunConfig, fit};

/// Orders in which the tasks come.
const ORDERS: [[usize; 4]; 3] = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]];

/// What trains, with its learning rate.
const METHODS: [(&str, &str); 2] = [
    ("lora", "method = \"lora\"\nrank = 16\nalpha = 32\n[optim]\nlr = 3e-3\n"),
    ("full", "method = \"full\"\n[optim]\nlr = 1e-3\n"),
];

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

#[test]
#[ignore = "takes minutes"]
fn bench() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let steps = number("FT_BENCH_STEPS", 60);
    let orders = number("FT_BENCH_ORDERS", ORDERS.len());
    let methods = chosen("FT_BENCH_METHODS", &METHODS.map(|(name, _)| name));
    let strategies = chosen("FT_BENCH_STRATEGIES", StrategyConfig::NAMES);
    println!("{steps} steps of 16 samples for each of 4 tasks, {orders} orders\n");
    println!("| method | strategy | ACC | BWT | FWT | forgetting | general perplexity | time |");
    println!("|---|---|---|---|---|---|---|---|");
    for (method, options) in METHODS.iter().filter(|(name, _)| methods.contains(name)) {
        for strategy in &strategies {
            // A fresh adapter for each task needs a method with adapters.
            if *method == "full" && ["olora", "adapters"].contains(strategy) {
                continue;
            }
            let runs: Vec<Run> = ORDERS[..orders]
                .iter()
                .enumerate()
                .map(|(i, order)| {
                    run(
                        dir.path(),
                        &format!("{method}-{strategy}-{i}"),
                        options,
                        strategy,
                        order,
                        steps,
                    )
                })
                .collect();
            println!("| {method} | {strategy} | {} |", columns(&runs));
            if *strategy == "sequential" {
                eprintln!("{}", matrix(&runs[0].scores));
            }
        }
    }
}

struct Run {
    scores: ContinualScores,
    /// With evaluations.
    seconds: f64,
}

fn run(dir: &Path, out: &str, options: &str, strategy: &str, order: &[usize; 4], steps: usize) -> Run {
    let task = |number: &usize| {
        let name = Task::ALL[*number].name();
        format!("[[task]]\nname = \"{name}\"\ntrain = \"{name}.jsonl\"\nvalid = \"{name}_valid.jsonl\"\n")
    };
    let tasks: String = order.iter().map(task).collect();
    let more = std::env::var(SETTINGS).unwrap_or_default();
    let text = format!(
        "[model]\npath = \"base\"\n[data]\nformat = \"prompt-completion\"\nmax_length = 256\n[continual]\nstrategy = \
         \"{strategy}\"\nsteps_per_task = {steps}\n[schedule]\nkind = \"cosine\"\nwarmup = 0.1\n[train]\nbatch_size = 16\nout = \
         \"{out}\"\n[eval]\nsamples = 0\nmax_samples = 64\ngeneral = \"general.jsonl\"\n{tasks}[peft]\n{options}"
    );
    let mut sets = vec![format!("train.out={}", dir.join(out).display())];
    let own = more
        .split(';')
        .filter_map(|set| set.strip_prefix(&format!("{strategy}:")));
    sets.extend(own.map(str::to_owned));
    let config = RunConfig::parse(&dir.join("run.toml"), text, &sets).unwrap_or_else(|e| panic!("{e}"));
    let plan = Plan::resolve(config, &Device::flex(), "cpu").unwrap_or_else(|e| panic!("{e}"));
    let started = Instant::now();
    let outcome = fit(plan, FitOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    Run {
        scores: outcome.continual.expect("a run over tasks"),
        seconds: started.elapsed().as_secs_f64(),
    }
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

/// Means over the runs with their standard deviations.
fn columns(runs: &[Run]) -> String {
    let of = |pick: &dyn Fn(&Run) -> Option<f64>| {
        let values: Vec<f64> = runs.iter().filter_map(pick).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        match values.len() {
            0 => "-".to_owned(),
            1 => format!("{mean:.3}"),
            n => format!("{mean:.3} ± {:.3}", (squares / (n - 1) as f64).sqrt()),
        }
    };
    let general = of(&|run| run.scores.general.before) + " → " + &of(&|run| run.scores.general.after);
    let seconds = of(&|run| Some(run.seconds));
    let columns = [
        of(&|run| run.scores.acc),
        of(&|run| run.scores.bwt),
        of(&|run| run.scores.fwt),
        of(&|run| run.scores.forgetting),
        general,
        format!("{seconds} s"),
    ];
    columns.join(" | ")
}

fn matrix(scores: &ContinualScores) -> String {
    let line = |name: &str, row: &[f64]| {
        let cells = row.iter().map(|loss| format!("{loss:>12.3}"));
        format!("{name:<20}{}\n", cells.collect::<String>())
    };
    let rows = scores
        .matrix
        .iter()
        .zip(&scores.tasks)
        .map(|(row, name)| line(&format!("after {name}"), row));
    scores.start.iter().map(|row| line("before", row)).chain(rows).collect()
}
