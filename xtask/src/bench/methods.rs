//! Every method on the embedded model and its bundled lessons, each with its own default options: what trains, what is written,
//! how fast, how much memory, and what was learned.
//!
//! Default learning rates are those of large models, and no two methods want the same: each runs at its default times 1, 3
//! and 10 (`--rates 1,3,10`), and the run with the lowest held-out loss is shown.
//!
//! Machines differ from hour to hour: speed and memory are given beside LoRA's in the same run. Other arguments go to
//! `ft train` (`--set train.steps=100`). `--record` keeps the figures for the guide.

use std::path::Path;

use serde_json::Value;

use super::program::{Program, set};
use super::record::{Figures, record};
use crate::{Outcome, shell};

pub fn run(args: &[String]) -> Outcome {
    let Request {
        profile,
        names,
        rest,
        rates,
        keep,
    } = split(args)?;
    let ft = Ft(Program::build(&profile)?);
    let all = ft.methods()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        return Err(format!("{unknown}: no such method; there are {}", all.join(", ")));
    }
    let mut rows = Vec::new();
    for method in if names.is_empty() { &all } else { &names } {
        eprintln!("{method}");
        match ft.best(method, &rates, &rest) {
            Ok(row) => rows.push(row),
            Err(why) => eprintln!("left out: {why}"),
        }
    }
    if rows.is_empty() {
        return Err("nothing was measured".into());
    }
    print!("{}", table(&rows));
    match keep {
        true => record(rows.iter().map(|row| (row.method.clone(), row.figures())).collect()),
        false => Ok(()),
    }
}

struct Request {
    profile: String,
    /// Methods; all when none is named.
    names: Vec<String>,
    /// What `ft train` gets.
    rest: Vec<String>,
    /// Multiples of the default learning rate.
    rates: Vec<f64>,
    keep: bool,
}

fn split(args: &[String]) -> Result<Request, String> {
    let mut request = Request {
        profile: "release".to_owned(),
        names: Vec::new(),
        rest: Vec::new(),
        rates: vec![1.0, 3.0, 10.0],
        keep: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--profile" => request.profile = value()?,
            "--rates" => {
                let rates: Result<_, _> = value()?.split(',').map(str::parse).collect();
                request.rates = rates.map_err(|_| "--rates wants numbers such as 1,3,10")?;
            }
            "--record" => request.keep = true,
            flag if flag.starts_with('-') => request.rest.extend([arg.clone(), value()?]),
            _ => request.names.push(arg.clone()),
        }
    }
    Ok(request)
}

/// What a method cannot do without.
const NEEDED: &[(&str, &str)] = &[(
    "trainable_tokens",
    "peft.token_indices=[\"<|endoftext|>\", \"?\", \".\"]",
)];

/// The built program, for this table.
struct Ft(Program);

impl Ft {
    /// The values of `peft.method`, as the program's own schema lists them.
    fn methods(&self) -> Result<Vec<String>, String> {
        let schema = self.0.json(&["config".into(), "schema".into()])?;
        let choices = schema["$defs"]["PeftConfig"]["oneOf"].as_array();
        let names = choices.into_iter().flatten();
        let names = names.filter_map(|choice| choice["properties"]["method"]["const"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// The run with the lowest held-out loss.
    fn best(&self, method: &str, rates: &[f64], rest: &[String]) -> Result<Row, String> {
        let options = options(method);
        let plan = self.compare("plan", &options)?;
        let base = plan["steps"]["base_lr"]
            .as_f64()
            .ok_or("the plan names no learning rate")?;
        let mut rows = Vec::new();
        for rate in rates {
            let lr = base * rate;
            let row = self.measure(method, lr, [&options, rest].concat())?;
            eprintln!("  learning rate {lr:.1e}: loss {:.3}", row.number("/after/loss"));
            rows.push(row);
        }
        let loss = |row: &Row| row.number("/after/loss");
        let best = rows.into_iter().min_by(|a, b| loss(a).total_cmp(&loss(b)));
        best.ok_or_else(|| "--rates names no rate".into())
    }

    fn measure(&self, method: &str, lr: f64, mut args: Vec<String>) -> Result<Row, String> {
        let out = std::env::temp_dir().join(format!("ft-bench-{}-{method}", std::process::id()));
        args.extend(set(&format!("optim.lr={lr}")));
        args.extend(set(&format!("train.out={}", out.display())));
        args.push("--quiet".into());
        let row = Row {
            method: method.to_owned(),
            outcome: self.compare("train", &args)?,
            file: largest_file(&out.join("final")),
            lr,
        };
        std::fs::remove_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        Ok(row)
    }

    fn compare(&self, verb: &str, args: &[String]) -> Result<Value, String> {
        let config = shell::root().join("configs/compare-methods.toml");
        let first = [verb.to_owned(), config.display().to_string(), "--json".to_owned()];
        self.0.json(&[&first, args].concat())
    }
}

fn options(method: &str) -> Vec<String> {
    let needed = NEEDED.iter().filter(|(name, _)| *name == method);
    let settings = needed.map(|(_, setting)| setting.to_string());
    let settings = settings.chain([format!("peft.method={method}")]);
    settings.flat_map(|setting| set(&setting)).collect()
}

/// Size of the weights: nothing else in the result is larger.
fn largest_file(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = entries.filter(|e| e.path().extension().is_some_and(|x| x == "safetensors"));
    weights
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .max()
        .unwrap_or(0)
}

struct Row {
    method: String,
    file: u64,
    lr: f64,
    outcome: Value,
}

impl Row {
    fn number(&self, path: &str) -> f64 {
        self.outcome.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    fn rate(&self) -> f64 {
        self.number("/tokens") / self.number("/seconds")
    }

    fn figures(&self) -> Figures {
        Figures::from_iter([
            ("trainable".into(), self.number("/trainable").into()),
            ("file_bytes".into(), self.file.into()),
            ("lr".into(), self.lr.into()),
            ("loss_before".into(), self.number("/before/loss").into()),
            ("loss_after".into(), self.number("/after/loss").into()),
            ("exact_match".into(), self.number("/after/exact_match").into()),
        ])
    }
}

/// Markdown, one row per method; speed and memory are shares of LoRA's where LoRA was measured too.
fn table(rows: &[Row]) -> String {
    let lora = rows.iter().find(|row| row.method == "lora");
    let mut text =
        "| method | trainable | file, kB | tokens/s | x LoRA | peak MB | learning rate | loss before | loss after | exact match |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let share = lora.map_or("-".into(), |lora| format!("{:.2}", row.rate() / lora.rate()));
        text += &format!(
            "| {} | {} | {:.0} | {:.0} | {share} | {:.0} | {:.1e} | {:.3} | {:.3} | {:.1} % |\n",
            row.method,
            row.number("/trainable"),
            row.file as f64 / 1e3,
            row.rate(),
            row.number("/peak_memory_bytes") / 1e6,
            row.lr,
            row.number("/before/loss"),
            row.number("/after/loss"),
            100.0 * row.number("/after/exact_match"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_flags_and_the_profile_are_told_apart() {
        let args = ["ia3", "--profile", "dev", "--set", "train.steps=3", "lora"].map(String::from);
        let request = split(&args).unwrap();
        assert_eq!(
            (
                request.profile.as_str(),
                request.names.join(" "),
                request.rest.join(" ")
            ),
            ("dev", "ia3 lora".to_owned(), "--set train.steps=3".to_owned())
        );
        assert_eq!(request.rates, [1.0, 3.0, 10.0]);
        assert!(split(&["--set".to_owned()]).is_err());
        assert!(split(&["--rates".to_owned(), "1,x".to_owned()]).is_err());
    }

    #[test]
    fn speed_is_given_beside_lora() {
        let row = |method: &str, seconds: f64| Row {
            method: method.to_owned(),
            file: 2_000,
            lr: 1e-3,
            outcome: json!({ "tokens": 100.0, "seconds": seconds, "trainable": 7, "after": { "loss": 1.5, "exact_match": 0.25 } }),
        };
        let text = table(&[row("lora", 1.0), row("ia3", 0.5)]);
        assert!(text.contains("| ia3 | 7 | 2 | 200 | 2.00 |"), "{text}");
        assert!(text.contains("| 1.500 | 25.0 % |"), "{text}");
    }
}
