//! `cargo xtask check-gpu steps`: what a training step asks of a card, counted on the null driver: launches by kernel, copies, waits,
//! allocations, and the peak of the pool beside the plan. Flags behind `--` are one step of `ft-bench`'s `step` instead of the list.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use super::null_card::{NullCard, option};
use super::trace::{Counts, Trace};
use crate::Outcome;

const SHAPES: &str = "llama-3.2-1b,llama-3.2-3b,llama-3.1-8b";

/// What is counted for every shape.
const STEPS: &[(&str, &str)] = &[
    ("LoRA bf16", "--method lora --dtype bf16"),
    ("QLoRA NF4 double", "--method lora --dtype bf16 --quant nf4+double"),
    ("full, 8-bit AdamW", "--method full --dtype bf16 --optim adamw_8bit"),
];

pub fn run(args: &[String]) -> Outcome {
    let (own, typed) = match args.iter().position(|arg| arg == "--") {
        Some(at) => (&args[..at], Some(args[at + 1..].join(" "))),
        None => (args, None),
    };
    let mut own = own.to_vec();
    let card = NullCard::new(&mut own)?;
    let shapes = option(&mut own, "--shapes")?.unwrap_or_else(|| SHAPES.into());
    let out = option(&mut own, "--out")?.map(PathBuf::from);
    if let Some(unknown) = own.first() {
        return Err(format!("`{unknown}` is no flag of check-gpu steps"));
    }
    let mut text = String::from(
        "| shape | what trains | launches | kernels | uploads | reads | waits | allocations | pool | peak | planned | planned / peak |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut by_kernel = String::new();
    let steps: Vec<(&str, &str)> = match &typed {
        Some(typed) => vec![("step", typed)],
        None => STEPS.to_vec(),
    };
    for shape in shapes.split(',') {
        for (name, flags) in &steps {
            match count(&card, shape, flags) {
                Ok(counted) => {
                    text += &counted.row(shape, name);
                    by_kernel += &format!("\n{shape}, {name}:\n\n{}", counted.kernels());
                    eprintln!("{shape}, {name}: {} launches", counted.step.launched());
                }
                Err(why) => {
                    eprintln!("{why}");
                    text += &format!("| {shape} | {name} | {} |\n", why.lines().next().unwrap_or_default());
                }
            }
        }
    }
    let text = text + &by_kernel;
    print!("{text}");
    match out {
        Some(out) => std::fs::write(&out, text).map_err(|e| format!("{}: {e}", out.display())),
        None => Ok(()),
    }
}

/// A step that repeats: kernels are chosen and compiled before it.
struct Counted {
    step: Counts,
    /// Reserved by CubeCL's pool at the end.
    pool: u64,
    /// Most that the driver ever gave.
    peak: u64,
    planned: u64,
}

fn count(card: &NullCard, shape: &str, flags: &str) -> Result<Counted, String> {
    let trace = card.work.join("steps.jsonl");
    let _ = std::fs::remove_file(&trace);
    let mut command = card.command("step", 90, &trace)?;
    let mut given: Vec<&str> = flags.split_whitespace().collect();
    for (flag, value) in [
        ("--batch", "4"),
        ("--seq", "1024"),
        ("--warmup", "1"),
        ("--steps", "2"),
        ("--clip", "1"),
    ] {
        if !given.contains(&flag) {
            given.extend([flag, value]);
        }
    }
    command
        .args(["--device", "cuda", "--shape", shape, "--drawn", "--marks"])
        .arg(&trace)
        .args(given);
    let done = command.stderr(Stdio::piped()).output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(said.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    }
    let line = String::from_utf8_lossy(&done.stdout)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    let line: Value = serde_json::from_str(&line).map_err(|e| format!("no JSON line: {e}"))?;
    let mut trace = Trace::read(&trace)?;
    Ok(Counted {
        step: trace.steps.pop().ok_or("no step is marked in the trace")?,
        peak: trace.peak,
        pool: line["device_bytes"].as_u64().unwrap_or(0),
        planned: line["planned_bytes"].as_u64().unwrap_or(0),
    })
}

impl Counted {
    fn row(&self, shape: &str, name: &str) -> String {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let step = &self.step;
        // The benchmark itself waits once for the end of the step.
        format!(
            "| {shape} | {name} | {} | {} | {} ({} bytes) | {} ({} bytes) | {} | {} | {:.2} GiB | {:.2} GiB | {:.2} GiB | {:.2} |\n",
            step.launched(),
            step.launches.len(),
            step.uploads[0],
            step.uploads[1],
            step.reads[0],
            step.reads[1],
            step.waits.saturating_sub(1),
            step.allocations,
            gib(self.pool),
            gib(self.peak),
            gib(self.planned),
            self.planned as f64 / self.peak.max(1) as f64,
        )
    }

    /// Launches by kernel, the most frequent first.
    fn kernels(&self) -> String {
        let mut sorted: Vec<(&String, &usize)> = self
            .step
            .launches
            .iter()
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let rows = sorted.iter().map(|(name, count)| format!("| {count} | `{name}` |\n"));
        format!("| launches | kernel |\n|---|---|\n{}", rows.collect::<String>())
    }
}
