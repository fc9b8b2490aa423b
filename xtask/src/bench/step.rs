//! One training step of every method asked for, at the dimensions asked for; with `--python`, the same steps with torch + PEFT
//! in the same run, and the ratio.
//!
//! Other arguments go to both programs (`--layers 30 --seq 256 ..`; `cargo run -p ft-bench --bin step -- --help`). Machines
//! differ from hour to hour: only the ratio of one run means something. `--record` keeps the figures for the guide.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::record::{Figures, record};
use crate::{Outcome, shell};

/// Rows that are no method of ours by that name, or that need an option: row, method, option.
const ROWS: &[[&str; 3]] = &[
    ["dora", "lora", "dora=true"],
    ["trainable_tokens", "trainable_tokens", "token_indices=[1,2,3,4]"],
];

pub fn run(args: &[String]) -> Outcome {
    let request = Request::parse(args)?;
    let mut lines = Vec::new();
    for method in &request.methods {
        lines.push(measure("ft", method, request.ours(method))?);
        if let Some(python) = &request.python {
            lines.push(measure("torch", method, request.torch(python, method))?);
        }
    }
    print!("{}", table(&lines));
    match request.record {
        true => record(figures(&lines)),
        false => Ok(()),
    }
}

/// Ours, with the ratios to the torch line that follows.
fn figures(lines: &[Line]) -> Vec<(String, Figures)> {
    let mut all: Vec<(String, Figures)> = Vec::new();
    for line in lines {
        let (speed, memory) = (line.number("tokens_per_s"), line.number("peak_rss_bytes"));
        match (line.who, all.last_mut()) {
            ("torch", Some((_, ours))) => {
                let ratio = |ours: &Figures, key: &str, theirs: f64| ours[key].as_f64().map(|n| n / theirs).into();
                let (faster, smaller) = (ratio(ours, "tokens_per_s", speed), ratio(ours, "peak_bytes", memory));
                ours.extend([("x_torch".into(), faster), ("of_torch_memory".into(), smaller)]);
            }
            _ => {
                let figures = [
                    ("tokens_per_s".into(), speed.into()),
                    ("peak_bytes".into(), memory.into()),
                ];
                all.push((line.method.clone(), Figures::from_iter(figures)));
            }
        }
    }
    all
}

/// One measured step: whose, and what it printed.
struct Line {
    who: &'static str,
    /// As it was asked for.
    method: String,
    values: Value,
}

impl Line {
    fn number(&self, key: &str) -> f64 {
        self.values[key].as_f64().unwrap_or(f64::NAN)
    }
}

fn measure(who: &'static str, method: &str, mut command: Command) -> Result<Line, String> {
    let text = shell::output(command.stderr(Stdio::inherit()))?;
    let last = text.lines().last().unwrap_or_default();
    let values =
        serde_json::from_str(last).map_err(|e| format!("{who}: no JSON line at the end of the output: {e}"))?;
    eprintln!("{last}");
    Ok(Line {
        who,
        method: method.into(),
        values,
    })
}

#[derive(Debug, Default, PartialEq)]
struct Request {
    profile: Option<String>,
    features: Option<String>,
    python: Option<String>,
    methods: Vec<String>,
    rest: Vec<String>,
    record: bool,
}

impl Request {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut request = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--profile" => request.profile = Some(value()?),
                "--features" => request.features = Some(value()?),
                "--python" => request.python = Some(value()?),
                "--record" => request.record = true,
                "--method" => request.methods.push(value()?),
                _ => request.rest.push(arg.clone()),
            }
        }
        if request.methods.is_empty() {
            request.methods = vec!["lora".into(), "full".into()];
        }
        Ok(request)
    }

    fn ours(&self, method: &str) -> Command {
        let mut cargo = shell::cargo();
        let profile = self.profile.as_deref().unwrap_or("release");
        cargo.args([
            "run",
            "--quiet",
            "--profile",
            profile,
            "--package",
            "ft-bench",
            "--bin",
            "step",
        ]);
        if let Some(features) = &self.features {
            cargo.args(["--features", features]);
        }
        match ROWS.iter().find(|[row, ..]| row == &method) {
            Some([_, method, option]) => cargo.args(["--", "--method", method, "--set", option]),
            None => cargo.args(["--", "--method", method]),
        };
        cargo.args(&self.rest);
        cargo
    }

    fn torch(&self, python: &str, method: &str) -> Command {
        let mut command = Command::new(python);
        command
            .current_dir(shell::root())
            .args(["benches/torch_step.py", "--method", method])
            .args(&self.rest);
        command
    }
}

/// One row per line; a torch row also says how much faster and smaller the ft row above it is.
fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<17}{:<6}{:>10}{:>10}{:>10}\n",
        "method", "", "tokens/s", "peak GB", "of GEMM"
    );
    let mut above: Option<(f64, f64)> = None;
    for line in lines {
        let (who, method) = (line.who, &line.method);
        let (speed, memory) = (line.number("tokens_per_s"), line.number("peak_rss_bytes") / 1e9);
        let share = line.values["gemm_share"]
            .as_f64()
            .map_or("-".into(), |s| format!("{:.0} %", 100.0 * s));
        text += &format!("{method:<17}{who:<6}{speed:>10.1}{memory:>10.2}{share:>10}");
        if let Some((ours, our_memory)) = above.take().filter(|_| who == "torch") {
            text += &format!(
                "   ft: {:.2} x the speed, {:.2} x the memory",
                ours / speed,
                our_memory / memory
            );
        }
        text.push('\n');
        above = Some((speed, memory));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(args: &[&str]) -> Result<Request, String> {
        Request::parse(&args.iter().map(|a| a.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn own_flags_are_taken_and_the_rest_is_handed_on() {
        let request = parse(&["--seq", "64", "--method", "lora", "--python", "py"]).unwrap();
        assert_eq!(
            (request.methods, request.rest),
            (vec!["lora".into()], vec!["--seq".to_string(), "64".into()])
        );
        assert_eq!(request.python.as_deref(), Some("py"));
        assert_eq!(parse(&[]).unwrap().methods, ["lora", "full"]);
        assert!(parse(&["--method"]).is_err());
        let dora = parse(&["--seq", "64"]).unwrap().ours("dora");
        let args: Vec<_> = dora.get_args().filter_map(|arg| arg.to_str()).collect();
        assert!(
            args.ends_with(&["--method", "lora", "--set", "dora=true", "--seq", "64"]),
            "{args:?}"
        );
    }

    #[test]
    fn torch_rows_carry_the_ratio() {
        let line = |who, speed: f64, bytes: f64| Line {
            who,
            method: "lora".into(),
            values: json!({ "tokens_per_s": speed, "peak_rss_bytes": bytes }),
        };
        let text = table(&[line("ft", 300.0, 2e9), line("torch", 200.0, 4e9)]);
        assert!(text.contains("ft: 1.50 x the speed, 0.50 x the memory"), "{text}");
        assert!(!table(&[line("ft", 300.0, 2e9), line("ft", 200.0, 4e9)]).contains(" x "));
        let kept = figures(&[line("ft", 300.0, 2e9), line("torch", 200.0, 4e9)]);
        let wanted = json!({ "tokens_per_s": 300.0, "peak_bytes": 2e9, "x_torch": 1.5, "of_torch_memory": 0.5 });
        assert_eq!((kept[0].0.as_str(), Value::from(kept[0].1.clone())), ("lora", wanted));
    }
}
