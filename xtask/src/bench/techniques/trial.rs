//! One technique: its learning rate, then its runs, and what its result costs to use.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use super::catalog::{Rate, Start, Technique, named};
use super::ground::Ground;
use super::journal::{Journal, Line};
use super::search;
use crate::Outcome;
use crate::bench::program::Program;

/// Everything that runs need.
pub struct Bench {
    pub ft: Program,
    pub ground: Ground,
    pub journal: Journal,
    /// Run folders, removed as soon as they are measured; the tuned model and its half stay.
    pub work: PathBuf,
}

impl Bench {
    /// The best learning rate; none where the technique cannot run here, which the journal then says.
    pub fn rate(&self, technique: &'static Technique) -> Result<Option<f64>, String> {
        if let Rate::Of(other) = technique.rate {
            return self.rate(named(other).expect("a technique of the catalog"));
        }
        let left_out = |why: &str| -> Result<Option<f64>, String> {
            eprintln!("{}: left out: {why}", technique.name);
            let line = json!({ "technique": technique.name, "phase": "left_out", "why": why });
            self.journal.add(object(line)).map(|()| None)
        };
        let key = [("technique", technique.name.into()), ("phase", "left_out".into())];
        if self.journal.find(&key).is_some() {
            return Ok(None);
        }
        let start = self.start(technique)?;
        let plan = match self.ask("plan", technique, &start) {
            Ok(plan) => plan,
            Err(why) => return left_out(reason(&why)),
        };
        let base = plan["steps"]["base_lr"].as_f64();
        let base = base.ok_or("the plan names no learning rate")?;
        match search::search(base, |rate| self.short_run(technique, rate, &start)) {
            Ok(tried) => Ok(Some(search::best(&tried).0)),
            Err(why) => left_out(reason(&why)),
        }
    }

    /// Held-out loss of a short run; infinite where it breaks.
    fn short_run(&self, technique: &Technique, rate: f64, start: &[String]) -> Result<f64, String> {
        let key = [
            ("technique", technique.name.into()),
            ("phase", "search".into()),
            ("lr", rate.into()),
        ];
        if let Some(line) = self.journal.find(&key) {
            return Ok(line["loss"].as_f64().unwrap_or(f64::INFINITY));
        }
        let out = self.folder(technique, "search")?;
        let sets = [start, &short(rate, self.ground.search_steps, &out)].concat();
        let outcome = self.ask("train", technique, &sets);
        remove(&out)?;
        let loss = match outcome {
            Ok(outcome) => outcome["after"]["loss"].as_f64(),
            Err(why) if why.contains(DIVERGED) => None,
            Err(why) => return Err(why),
        };
        eprintln!(
            "{}: {rate:.1e} {}",
            technique.name,
            loss.map_or("breaks".into(), |loss| format!("{loss:.3}"))
        );
        let mut line = object(json!({ "technique": technique.name, "phase": "search", "lr": rate }));
        line.insert("loss".into(), loss.into());
        self.journal.add(line)?;
        Ok(loss.unwrap_or(f64::INFINITY))
    }

    /// A whole run, and with the first seed what using its result costs.
    pub fn run(&self, technique: &'static Technique, seed: u64, rate: f64) -> Outcome {
        let key = [
            ("technique", technique.name.into()),
            ("phase", "run".into()),
            ("seed", seed.into()),
        ];
        if self.journal.find(&key).is_some() {
            return Ok(());
        }
        let out = self.folder(technique, &seed.to_string())?;
        let mut sets = self.start(technique)?;
        sets.extend([
            format!("optim.lr={rate}"),
            format!("train.steps={}", self.ground.steps),
            format!("train.seed={seed}"),
            format!("train.out={}", out.display()),
        ]);
        let outcome = self.ask("train", technique, &sets)?;
        let mut line = figures(&outcome);
        line.extend(object(json!({
            "technique": technique.name, "phase": "run", "seed": seed, "lr": rate,
            "curve": curve(&out)?, "file_bytes": weights(&out.join("final")),
        })));
        if seed == FIRST {
            line.extend(self.used(&out)?);
        }
        eprintln!("{}: seed {seed}: loss {:.3}", technique.name, number(&line, "loss"));
        self.journal.add(line)?;
        if (technique.name, seed) == ("full", FIRST) {
            keep_tuned(&out, &self.tuned())?;
        }
        remove(&out)
    }

    /// What the untrained model is measured at.
    pub fn base(&self) -> Outcome {
        if self.journal.find(&[("phase", "base".into())]).is_some() {
            return Ok(());
        }
        let lora = named("lora").expect("a technique of the catalog");
        let out = self.folder(lora, "base")?;
        let sets = [
            "train.steps=1".into(),
            "optim.lr=0".into(),
            format!("train.out={}", out.display()),
        ];
        let outcome = self.ask("train", lora, &sets)?;
        let plan = self.ask("plan", lora, &[])?;
        let mut line = object(json!({ "phase": "base", "parameters": plan["parameters"] }));
        line.extend(object(outcome["before"].clone()));
        line.extend(self.used(&out)?);
        self.journal.add(line)?;
        remove(&out)
    }

    /// Loss on general text, and what merging does, of a finished run.
    fn used(&self, run: &Path) -> Result<Line, String> {
        let mut line = Line::new();
        if let Some(general) = &self.ground.general {
            let args = [
                "eval",
                &text(run),
                "--data",
                &text(general),
                "--format",
                "text",
                "--json",
            ];
            line.insert("general_loss".into(), self.ft.json(&strings(&args))?["loss"].clone());
        }
        if let Some((told, merged)) = self.merged(run)? {
            line.insert("merge_error".into(), told["max_difference"].clone());
            line.insert("merged_bytes".into(), weights(&merged).into());
        }
        Ok(line)
    }

    /// What `ft merge` says, and its folder. Nothing where the program refuses: prompts and serial adapters are no part of any weight, and
    /// full fine-tuning has nothing left to merge.
    fn merged(&self, run: &Path) -> Result<Option<(Value, PathBuf)>, String> {
        let (base, adapter, merged) = (model(run)?, run.join("final"), run.join("merged"));
        if !adapter.join("adapter_config.json").exists() {
            return Ok(None);
        }
        let adapter = text(&adapter);
        let args = ["merge", &base, "--adapter", &adapter, "--out", &text(&merged), "--json"];
        match self.ft.json(&strings(&args)) {
            Ok(told) => Ok(Some((told, merged))),
            Err(why) if why.contains(NO_MERGE) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Speed of training, and of generation with the adapter on and merged. To be called with nothing beside it.
    pub fn time(&self, technique: &'static Technique, rate: f64) -> Outcome {
        let key = [("technique", technique.name.into()), ("phase", "speed".into())];
        if self.journal.find(&key).is_some() {
            return Ok(());
        }
        let out = self.folder(technique, "speed")?;
        let sets = [self.start(technique)?, short(rate, TIMED, &out)].concat();
        let outcome = self.ask("train", technique, &sets)?;
        let mut line = object(json!({ "technique": technique.name, "phase": "speed" }));
        line.insert("tokens_per_s".into(), tokens_per_s(&outcome).into());
        line.insert("generated_per_s".into(), self.speed(&text(&out))?);
        if let Some((_, merged)) = self.merged(&out)? {
            line.insert("merged_per_s".into(), self.speed(&text(&merged))?);
        }
        eprintln!("{}: {:.0} tokens/s", technique.name, number(&line, "tokens_per_s"));
        self.journal.add(line)?;
        remove(&out)
    }

    /// Greedy tokens per second, the best of three: other programs only ever slow it down.
    fn speed(&self, model: &str) -> Result<Value, String> {
        let args = [
            "generate",
            model,
            "--prompt",
            "The",
            "--max-new-tokens",
            "96",
            "--ignore-eos",
            "--temperature",
            "0",
            "--json",
        ];
        let mut best = 0.0f64;
        for _ in 0..3 {
            let told = self.ft.json(&strings(&args))?;
            best = best.max(told["tokens_per_s"].as_f64().unwrap_or(0.0));
        }
        Ok(best.into())
    }

    /// A verb with the technique's settings and then `more`.
    pub fn ask(&self, verb: &str, technique: &Technique, more: &[String]) -> Result<Value, String> {
        let own: Vec<String> = technique.settings.iter().map(|setting| setting.to_string()).collect();
        self.ground.call(&self.ft, verb, &[&own, more].concat())
    }

    /// Settings that make training begin where the technique wants it to.
    fn start(&self, technique: &Technique) -> Result<Vec<String>, String> {
        if technique.start == Start::Model {
            return Ok(Vec::new());
        }
        let (tuned, half) = (self.tuned(), self.work.join("half"));
        if !tuned.exists() {
            return Err(format!(
                "{}: full fine-tuning has not run; remove its line from the results to run it again",
                technique.name
            ));
        }
        self.make_half(&tuned, &half)?;
        let mut sets = vec![format!("model.path={}", half.display())];
        if technique.start == Start::HalfTaughtByTuned {
            sets.extend([
                "objective.kind=distill".into(),
                format!("objective.teacher={}", tuned.display()),
            ]);
        }
        Ok(sets)
    }

    /// Every second layer of the tuned model. Two techniques begin there, and may at the same time.
    fn make_half(&self, tuned: &Path, half: &Path) -> Outcome {
        static MAKING: Mutex<()> = Mutex::new(());
        let _alone = MAKING.lock().expect("no holder panics");
        if half.exists() {
            return Ok(());
        }
        let told = self.ft.json(&strings(&["inspect", &text(tuned), "--json"]))?;
        let layers = told["layers"].as_u64().ok_or("the tuned model has no layers")?;
        let kept: Vec<String> = (0..layers).step_by(2).map(|layer| layer.to_string()).collect();
        let init = ["distill", "init", &text(tuned), "--layers", &kept.join(","), "--out"];
        self.ft
            .json(&[strings(&init), strings(&[&text(half), "--json"])].concat())
            .map(|_| ())
    }

    fn tuned(&self) -> PathBuf {
        self.work.join("tuned")
    }

    /// Where a run goes, without what one that was killed left there.
    pub fn folder(&self, technique: &Technique, what: &str) -> Result<PathBuf, String> {
        let folder = self.work.join(format!("{}-{what}", technique.name));
        remove(&folder).map(|()| folder)
    }
}

/// Settings of a run that is asked for its held-out loss or its speed, and for nothing else.
pub fn short(rate: f64, steps: u64, out: &Path) -> Vec<String> {
    vec![
        format!("optim.lr={rate}"),
        format!("train.steps={steps}"),
        "eval.metrics=[]".into(),
        "eval.at_start=false".into(),
        "eval.samples=0".into(),
        format!("train.out={}", out.display()),
    ]
}

/// What `ft train` says of a rate that is too high.
const DIVERGED: &str = "the last good checkpoint is";

/// What `ft merge` says of an adapter that is no part of a weight.
const NO_MERGE: &str = "it cannot be merged";

/// Steps that are timed.
const TIMED: u64 = 20;

/// The seed whose result is measured in use.
pub const FIRST: u64 = 1;

/// What the outcome of `ft train --json` says.
fn figures(outcome: &Value) -> Line {
    let mut line = object(outcome["after"].clone());
    for key in ["tokens", "trainable", "peak_memory_bytes", "planned_memory_bytes"] {
        line.insert(key.into(), outcome[key].clone());
    }
    line
}

/// Of an object that says how many tokens took how many seconds.
pub fn tokens_per_s(told: &Value) -> Option<f64> {
    Some(told["tokens"].as_f64()? / told["seconds"].as_f64()?)
}

/// `[step, training loss]` and `[step, held-out loss]` of a run.
fn curve(run: &Path) -> Result<Value, String> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = super::journal::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let of = |key: &str| -> Vec<Value> {
        let points = lines.iter().filter(|line| line.contains_key(key));
        points.map(|line| json!([line["step"], line[key]])).collect()
    };
    Ok(json!({ "train": of("loss"), "held_out": of("eval_loss") }))
}

/// The model that a run began with, from its resolved configuration.
pub fn model(run: &Path) -> Result<String, String> {
    let path = run.join("config.toml");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let section = text.split("[model]").nth(1).unwrap_or_default();
    let mut lines = section.lines().filter_map(|line| line.strip_prefix("path = "));
    let value = lines
        .next()
        .ok_or_else(|| format!("{}: no model.path", path.display()))?;
    Ok(value.trim_matches(|c| c == '"' || c == '\'').to_owned())
}

/// Bytes of the safetensors files of a folder.
fn weights(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|e| e.path().extension().is_some_and(|x| x == "safetensors"));
    files.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

fn keep_tuned(run: &Path, to: &Path) -> Outcome {
    remove(to)?;
    fs::rename(run.join("final"), to).map_err(|e| format!("{}: {e}", to.display()))
}

pub fn remove(folder: &Path) -> Outcome {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", folder.display())),
        _ => Ok(()),
    }
}

/// What stands behind the last `error:` of a program.
fn reason(text: &str) -> &str {
    text.rsplit("error: ").next().unwrap_or(text).trim()
}

pub fn number(line: &Line, key: &str) -> f64 {
    line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

pub fn object(value: Value) -> Line {
    match value {
        Value::Object(map) => map,
        _ => Line::new(),
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}
