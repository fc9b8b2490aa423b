//! `cargo xtask bench distill`: a student with half of a teacher's layers, taught by the data alone, by the teacher's probabilities
//! too, and by the teacher's word on the student's own answers, in equal steps.
//!
//! The teacher is the embedded model after the quickstart's recipe. Every way of teaching runs at each of `--rates` with the first
//! seed; the rate with the lowest held-out perplexity is taken for all seeds. Other arguments go to the students' `ft train`
//! (`--set train.steps=100`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::program::{Program, set};
use crate::{Outcome, shell};

/// Name, and the settings of `[objective]`. GKD's are TRL's defaults.
const WAYS: &[(&str, &[&str])] = &[
    ("SFT", &[]),
    ("KD", &["objective.kind=distill", "objective.alpha=0.5"]),
    (
        "GKD",
        &[
            "objective.kind=distill",
            "objective.alpha=0.5",
            "objective.beta=0.5",
            "objective.lambda=0.5",
        ],
    ),
];

pub fn run(args: &[String]) -> Outcome {
    let request = Request::read(args)?;
    let bench = Bench {
        ft: Program::build(&request.profile)?,
        dir: std::env::temp_dir().join(format!("ft-bench-distill-{}", std::process::id())),
    };
    let outcome = bench.table(&request);
    let _ = std::fs::remove_dir_all(&bench.dir);
    print!("{}", outcome?);
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Request {
    profile: String,
    seeds: u64,
    rates: Vec<f64>,
    rest: Vec<String>,
}

impl Request {
    fn read(args: &[String]) -> Result<Self, String> {
        let mut request = Self {
            profile: "release".to_owned(),
            seeds: 3,
            rates: vec![2.5e-4, 5e-4, 1e-3, 2e-3],
            rest: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or_else(|| format!("{arg} wants a value"))?;
            match arg.as_str() {
                "--profile" => request.profile = value.clone(),
                "--seeds" => {
                    let seeds = value.parse().ok().filter(|seeds| *seeds > 0);
                    request.seeds = seeds.ok_or("--seeds wants a number above 0")?;
                }
                "--rates" => {
                    let rates: Result<_, _> = value.split(',').map(str::parse).collect();
                    request.rates = rates.map_err(|_| "--rates wants numbers such as 5e-4,1e-3")?;
                }
                flag if flag.starts_with("--") => request.rest.extend([arg.clone(), value.clone()]),
                _ => {
                    return Err(format!(
                        "`{arg}` is no option; --seeds, --rates, --profile, and those of `ft train`"
                    ));
                }
            }
        }
        Ok(request)
    }
}

struct Bench {
    ft: Program,
    dir: PathBuf,
}

impl Bench {
    fn table(&self, request: &Request) -> Result<String, String> {
        let text = |path: &Path| path.display().to_string();
        let path = |name: &str| text(&self.dir.join(name));
        let call = |args: &[&str]| {
            self.ft
                .json(&args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>())
        };

        eprintln!("teacher");
        let out = format!("train.out={}", path("run"));
        let taught = call(&["train", "--json", "--quiet", "--set", &out])?;
        let (adapter, teacher, student) = (path("run/final"), path("teacher"), path("student"));
        call(&[
            "merge",
            "embedded:tiny",
            "--adapter",
            &adapter,
            "--out",
            &teacher,
            "--dtype",
            "f32",
            "--json",
        ])?;
        let layers = layers_of(Path::new(&teacher))?;
        let kept: Vec<String> = (0..layers).step_by(2).map(|layer| layer.to_string()).collect();
        call(&[
            "distill",
            "init",
            &teacher,
            "--layers",
            &kept.join(","),
            "--out",
            &student,
            "--json",
        ])?;

        let mut rows = Vec::new();
        for (name, settings) in WAYS {
            eprintln!("{name}");
            let train = |lr: f64, seed: u64| -> Result<Value, String> {
                let mut sets = vec![format!("model.path={student}"), format!("optim.lr={lr}")];
                sets.push(format!("train.seed={seed}"));
                sets.push(format!("train.out={}", path(&format!("{name}-{lr}-{seed}"))));
                sets.extend(settings.iter().map(|setting| setting.to_string()));
                if !settings.is_empty() {
                    sets.push(format!("objective.teacher={teacher}"));
                }
                let config = text(&shell::root().join("configs/compare-distill.toml"));
                let mut args = ["train".to_owned(), config, "--json".to_owned(), "--quiet".to_owned()].to_vec();
                args.extend(sets.iter().flat_map(|setting| set(setting)));
                args.extend(request.rest.iter().cloned());
                self.ft.json(&args)
            };
            let first = request.rates.iter().map(|lr| Ok((*lr, train(*lr, 0)?)));
            let first: Vec<(f64, Value)> = first.collect::<Result<_, String>>()?;
            for (lr, outcome) in &first {
                eprintln!(
                    "  learning rate {lr:.1e}: perplexity {:.4}",
                    number(outcome, "/after/perplexity")
                );
            }
            let perplexity = |run: &(f64, Value)| number(&run.1, "/after/perplexity");
            let best = first.into_iter().min_by(|a, b| perplexity(a).total_cmp(&perplexity(b)));
            let (lr, outcome) = best.ok_or("--rates names no rate")?;
            let mut runs = vec![outcome];
            for seed in 1..request.seeds {
                runs.push(train(lr, seed)?);
            }
            rows.push(Row {
                name: (*name).to_owned(),
                lr,
                runs,
            });
        }
        let kept = format!("{} of {layers} layers", kept.len());
        Ok(format!("{}\n{}", heading(&taught, &rows, &kept), rows_text(&rows)))
    }
}

fn layers_of(model: &Path) -> Result<u64, String> {
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    config["num_hidden_layers"]
        .as_u64()
        .ok_or_else(|| format!("{}: no num_hidden_layers", path.display()))
}

struct Row {
    name: String,
    lr: f64,
    /// What `ft train` said, seed by seed.
    runs: Vec<Value>,
}

impl Row {
    /// Mean and standard deviation over the seeds.
    fn spread(&self, path: &str) -> (f64, f64) {
        let values: Vec<f64> = self.runs.iter().map(|run| number(run, path)).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (mean, (squares / (n - 1.0).max(1.0)).sqrt())
    }
}

fn number(outcome: &Value, path: &str) -> f64 {
    outcome.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn heading(teacher: &Value, rows: &[Row], kept: &str) -> String {
    let untrained = rows
        .first()
        .and_then(|row| row.runs.first())
        .cloned()
        .unwrap_or_default();
    let score = |outcome: &Value, when: &str| {
        let exact = 100.0 * number(outcome, &format!("/{when}/exact_match"));
        format!(
            "perplexity {:.3}, exact match {exact:.1} %",
            number(outcome, &format!("/{when}/perplexity"))
        )
    };
    format!(
        "Teacher: {}. Student before: {kept}, {}. {} steps each, {} seeds (mean ± standard deviation).\n",
        score(teacher, "after"),
        score(&untrained, "before"),
        number(&untrained, "/steps"),
        rows.first().map_or(0, |row| row.runs.len()),
    )
}

/// Markdown, one row per way of teaching; time beside that of supervised fine-tuning.
fn rows_text(rows: &[Row]) -> String {
    let mut text = "| taught by | learning rate | held-out perplexity | exact match | time, x SFT | peak MB |\n|---|---|---|---|---|---|\n"
        .to_owned();
    let plain = rows.first().map_or(f64::NAN, |row| row.spread("/seconds").0);
    for row in rows {
        let (perplexity, exact) = (row.spread("/after/perplexity"), row.spread("/after/exact_match"));
        text += &format!(
            "| {} | {:.0e} | {:.3} ± {:.3} | {:.1} ± {:.1} % | {:.2} | {:.0} |\n",
            row.name,
            row.lr,
            perplexity.0,
            perplexity.1,
            100.0 * exact.0,
            100.0 * exact.1,
            row.spread("/seconds").0 / plain,
            row.spread("/peak_memory_bytes").0 / 1e6,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_told_apart() {
        let args = ["--seeds", "2", "--set", "train.steps=3", "--rates", "1e-3"].map(String::from);
        let request = Request::read(&args).unwrap();
        assert_eq!(
            (request.seeds, request.rates, request.rest.join(" ")),
            (2, vec![1e-3], "--set train.steps=3".into())
        );
        for wrong in [&["--seeds", "0"][..], &["--seeds"], &["gkd", "x"], &["--rates", "fast"]] {
            assert!(Request::read(&wrong.iter().map(|arg| arg.to_string()).collect::<Vec<_>>()).is_err());
        }
    }

    #[test]
    fn seeds_are_averaged() {
        let run = |exact: f64| json!({"seconds": 2.0, "after": {"exact_match": exact, "perplexity": 1.5}});
        let row = Row {
            name: "KD".into(),
            lr: 1e-3,
            runs: vec![run(0.5), run(0.7), run(0.9)],
        };
        let (mean, spread) = row.spread("/after/exact_match");
        assert!((mean - 0.7).abs() < 1e-9 && (spread - 0.2).abs() < 1e-9);
        assert!(rows_text(&[row]).contains("| KD | 1e-3 | 1.500 ± 0.000 | 70.0 ± 20.0 % | 1.00 |"));
    }
}
