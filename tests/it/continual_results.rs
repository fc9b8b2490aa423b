//! `benches/results/continual.jsonl`, a line for every run of `cargo xtask bench continual`, and what the README and the guide make of it: a
//! table and heat maps. The test here fails where they are out of date; `cargo xtask guide` (this test with `FT_BLESS=1`) writes them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ft_train::continual::StrategyConfig;
use ft_train::continual::scores::ContinualScores;
use serde_json::{Value, json};

/// `{"method", "strategy", "order", "steps_per_task"}` with `"scores"`, which are a run's `continual.json`, or with `"refused"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Line(pub Value);

impl Line {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    fn number(&self, path: &str) -> Option<f64> {
        self.0.pointer(path)?.as_f64()
    }

    /// What a line is of; lines are kept in this order.
    fn key(&self) -> (usize, usize, u64) {
        let place = |names: &[&str], key: &str| names.iter().position(|name| *name == self.text(key));
        (
            place(&METHODS, "method").expect("a method"),
            place(StrategyConfig::NAMES, "strategy").expect("a strategy"),
            self.0["order"].as_u64().expect("an order"),
        )
    }

    fn scores(&self) -> Option<ContinualScores> {
        serde_json::from_value(self.0["scores"].clone()).ok()
    }
}

/// What trains.
const METHODS: [&str; 2] = ["lora", "full"];

/// Columns of the table with where they are in a line.
const COLUMNS: [(&str, &str); 5] = [
    ("ACC", "/scores/acc"),
    ("BWT", "/scores/bwt"),
    ("FWT", "/scores/fwt"),
    ("forgetting", "/scores/forgetting"),
    ("general perplexity", "/scores/general/after"),
];

/// Means over the orders with their standard deviations, a row for every method and strategy.
pub fn table(lines: &[Line]) -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "| | strategy | {} |\n|---|---|{}\n",
        names.join(" | "),
        "---|".repeat(COLUMNS.len())
    );
    for group in lines.chunk_by(|a, b| a.text("method") == b.text("method") && a.text("strategy") == b.text("strategy"))
    {
        let first = &group[0];
        let _ = write!(text, "| {} | {} |", first.text("method"), first.text("strategy"));
        for (_, path) in COLUMNS {
            let values: Vec<f64> = group.iter().filter_map(|line| line.number(path)).collect();
            let _ = write!(text, " {} |", spread(&values));
        }
        text += "\n";
    }
    text
}

/// Mean and standard deviation of a sample.
fn spread(values: &[f64]) -> String {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let text = match values.len() {
        0 => "-".to_owned(),
        1 => format!("{mean:.2}"),
        n => format!("{mean:.2} ± {:.2}", (squares / (n - 1) as f64).sqrt()),
    };
    // No zero has a sign.
    match text.strip_prefix("-0.00") {
        Some(rest) => format!("0.00{rest}"),
        None => text,
    }
}

/// Puts lines in the place of older ones of the same runs.
pub fn keep(path: &Path, new: Vec<Line>) {
    let old = match path.exists() {
        true => read(path),
        false => Vec::new(),
    };
    let again = |line: &Line| new.iter().any(|new| new.key() == line.key());
    let mut lines: Vec<Line> = old.into_iter().filter(|line| !again(line)).chain(new.clone()).collect();
    lines.sort_by_key(Line::key);
    let text = lines.iter().map(|line| line.0.to_string() + "\n");
    fs::write(path, text.collect::<String>()).unwrap();
}

fn read(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|line| Line(serde_json::from_str(line).expect("a JSON line")))
        .collect()
}

fn committed() -> Vec<Line> {
    read(&root().join("benches/results/continual.jsonl"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The heat maps of runs of one method in the first order, of all strategies or of some.
fn maps(lines: &[Line], method: &str, strategies: &[&str], columns: usize) -> String {
    let of = |name: &&str| {
        let line = lines
            .iter()
            .find(|line| line.text("method") == method && line.text("strategy") == *name && line.0["order"] == 0);
        line?.scores().map(|scores| (name.to_string(), scores))
    };
    let runs: Vec<(String, ContinualScores)> = strategies.iter().filter_map(of).collect();
    let runs: Vec<_> = runs.iter().map(|(name, scores)| (name.clone(), scores)).collect();
    ft_train::heat_maps(&runs, columns) + "\n"
}

/// What the README shows: the floor, the ceiling, and what comes between.
const SHOWN: [&str; 4] = ["sequential", "joint", "replay", "ewc"];

const ABOUT: &str = "Losses in nats per target token, means over three orders of four tasks with their standard deviations; small is good, and positive BWT \
    and forgetting are for the worse.";

/// The section of the guide.
pub fn for_guide() -> String {
    let lines = committed();
    let refused = lines
        .iter()
        .filter(|line| line.0["order"] == 0 && !line.0["refused"].is_null());
    let refused: String = refused
        .map(|line| {
            format!(
                "* {} with {}: {}\n",
                line.text("strategy"),
                line.text("method"),
                line.text("refused")
            )
        })
        .collect();
    format!(
        "\n## Measured\n\nThe embedded model and its four tasks, {} steps of 16 samples for each ([how](../../benches/results/README.md)). {ABOUT} The perplexity \
         of general text is {:.2} before.\n\n{}\n{refused}\nEvery task's loss after every task, in the first order, with LoRA and with full fine-tuning:\n\n\
         ![Heat maps of all strategies with LoRA](../images/continual-lora.svg)\n\n\
         ![Heat maps of all strategies with full fine-tuning](../images/continual-full.svg)\n",
        lines[0].0["steps_per_task"],
        lines[0].number("/scores/general/before").unwrap_or(f64::NAN),
        table(&lines)
    )
}

/// The rows of a strategy beside the floor and the ceiling, for its page.
pub fn of_strategy(name: &str) -> String {
    let shown = |line: &Line| ["sequential", "joint", name].contains(&line.text("strategy"));
    let lines: Vec<Line> = committed().into_iter().filter(shown).collect();
    format!(
        "\n## Measured\n\n{ABOUT} [All strategies](README.md#tasks-one-after-the-other).\n\n{}",
        table(&lines)
    )
}

/// The README's table, between the two marks.
fn in_readme(readme: &str, lines: &[Line]) -> String {
    const MARKS: [&str; 2] = ["<!-- made by `cargo xtask guide` -->\n", "<!-- end -->"];
    let (before, rest) = readme
        .split_once(MARKS[0])
        .expect("README.md: the mark before the table");
    let (_, after) = rest.split_once(MARKS[1]).expect("README.md: the mark behind the table");
    let lora: Vec<Line> = lines
        .iter()
        .filter(|line| line.text("method") == "lora")
        .cloned()
        .collect();
    format!("{before}{}{}{}{after}", MARKS[0], table(&lora), MARKS[1])
}

#[test]
fn the_readme_and_the_pictures_show_the_committed_runs() {
    let lines = committed();
    let keys: Vec<_> = lines.iter().map(Line::key).collect();
    assert!(
        keys.is_sorted() && keys.len() == METHODS.len() * StrategyConfig::NAMES.len() * 3,
        "three runs of everything"
    );
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let files = [
        ("README.md", in_readme(&readme, &lines)),
        ("docs/images/continual.svg", maps(&lines, "lora", &SHOWN, 2)),
        (
            "docs/images/continual-lora.svg",
            maps(&lines, "lora", StrategyConfig::NAMES, 2),
        ),
        (
            "docs/images/continual-full.svg",
            maps(&lines, "full", StrategyConfig::NAMES, 2),
        ),
    ];
    for (name, text) in files {
        let path = root().join(name);
        if std::env::var_os("FT_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{name} is out of date: run `cargo xtask guide`");
    }
}

#[test]
fn rows_are_means_over_orders_and_new_runs_take_the_place_of_old_ones() {
    let line = |strategy: &str, order: usize, acc: f64| {
        Line(
            json!({ "method": "lora", "strategy": strategy, "order": order, "scores": { "acc": acc, "general": { "after": 2.0 } } }),
        )
    };
    let refused = Line(json!({ "method": "full", "strategy": "olora", "order": 0, "refused": "no" }));
    let text = table(&[line("ewc", 0, 1.0), line("ewc", 1, 3.0), refused.clone()]);
    let rows = "| lora | ewc | 2.00 ± 1.41 | - | - | - | 2.00 ± 0.00 |\n| full | olora | - | - | - | - | - |\n";
    assert!(text.ends_with(rows), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.jsonl");
    keep(&path, vec![refused.clone(), line("gem", 0, 1.0), line("ewc", 0, 1.0)]);
    keep(&path, vec![line("ewc", 0, 5.0)]);
    assert_eq!(read(&path), [line("ewc", 0, 5.0), line("gem", 0, 1.0), refused]);
}
