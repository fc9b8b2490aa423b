//! `benches/results/augment.jsonl`, a line for every run of `cargo xtask bench augment`, and the table that the guide makes of it. The test here
//! fails where the table is out of date; `cargo xtask guide` (this test with `FT_BLESS=1`) writes it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What is learned.
pub struct Set {
    pub name: &'static str,
    pub metric: &'static str,
    /// Steps of 16 samples, for every size.
    pub steps: [usize; 2],
    /// Answers that the metric is of, and their most tokens.
    pub answers: usize,
    pub answer_tokens: usize,
}

pub const SETS: [Set; 2] = [
    Set {
        name: "SST-2",
        metric: "accuracy",
        steps: [120, 400],
        answers: 400,
        answer_tokens: 4,
    },
    Set {
        name: "E2E",
        metric: "bleu",
        steps: [80, 250],
        answers: 40,
        answer_tokens: 80,
    },
];

/// Training rows, of which as many again are made.
pub const SIZES: [usize; 2] = [500, 5000];

pub const SEEDS: usize = 3;

/// Names with sections `[data.augment]`.
pub const OPERATORS: [(&str, &str); 5] = [
    ("none", ""),
    (
        "EDA (all four)",
        "[data.augment]\noperators = [{ kind = \"synonyms\" }, { kind = \"insert\" }, { kind = \"swap\" }, { kind = \"delete\" }]\n",
    ),
    ("synonyms", "[data.augment]\noperators = [{ kind = \"synonyms\" }]\n"),
    ("keyboard", "[data.augment]\noperators = [{ kind = \"keyboard\" }]\n"),
    (
        "templates",
        "[data.augment]\noperators = [{ kind = \"templates\", templates = [\"Read this.\\n{text}\", \"Here it is.\\n{text}\"] }]\n",
    ),
];

/// `{"set", "rows", "operators", "seed", "scores": {"loss", METRIC, "made"}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Line(pub Value);

impl Line {
    fn set(&self) -> usize {
        let known = SETS.iter().position(|set| self.0["set"] == set.name);
        known.expect("a set")
    }

    /// What a line is of; lines are kept in this order.
    pub fn key(&self) -> (usize, u64, usize, u64) {
        let operators = OPERATORS.iter().position(|(name, _)| self.0["operators"] == *name);
        let number = |key: &str| self.0[key].as_u64().expect("a number");
        (
            self.set(),
            number("rows"),
            operators.expect("operators"),
            number("seed"),
        )
    }

    fn score(&self, name: &str) -> f64 {
        self.0["scores"][name].as_f64().expect("a score")
    }

    /// BLEU is a percentage; shares become one.
    fn metric(&self) -> f64 {
        let set = &SETS[self.set()];
        let value = self.score(set.metric);
        if set.metric == "bleu" { value } else { 100.0 * value }
    }
}

pub fn read(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| Line(serde_json::from_str(line).expect("a JSON line")))
        .collect()
}

/// Puts lines in the place of older ones of the same runs.
pub fn keep(path: &Path, new: Vec<Line>) {
    let again = |line: &Line| new.iter().any(|new| new.key() == line.key());
    let mut lines: Vec<Line> = read(path).into_iter().filter(|line| !again(line)).collect();
    lines.extend(new.clone());
    lines.sort_by_key(Line::key);
    let text: String = lines.iter().map(|line| format!("{}\n", line.0)).collect();
    fs::write(path, text).unwrap();
}

/// Means over the seeds with their standard deviations; a difference to `none` is that of runs with the same rows.
pub fn table(lines: &[Line]) -> String {
    let mut text = "| set | rows | operators | seeds | made | held-out loss | to none | accuracy or BLEU, % | to none |\n|---|---|---|---|---|---|---|---|---|\n".to_owned();
    for group in lines.chunk_by(|a, b| (a.key().0, a.key().1, a.key().2) == (b.key().0, b.key().1, b.key().2)) {
        let (set, rows, operators, _) = group[0].key();
        let plain = |line: &Line| lines.iter().find(|other| other.key() == (set, rows, 0, line.key().3));
        let of = |score: &dyn Fn(&Line) -> f64| group.iter().map(score).collect::<Vec<f64>>();
        let beside = |score: &dyn Fn(&Line) -> f64, digits: usize| match operators {
            0 => String::new(),
            _ => {
                let pairs = group.iter().filter_map(|line| Some(score(line) - score(plain(line)?)));
                spread(&pairs.collect::<Vec<f64>>(), digits, true)
            }
        };
        let loss = |line: &Line| line.score("loss");
        let made = of(&|line| line.score("made")).iter().sum::<f64>() / group.len() as f64;
        let _ = writeln!(
            text,
            "| {} | {rows} | {} | {} | {made:.0} | {} | {} | {} | {} |",
            SETS[set].name,
            OPERATORS[operators].0,
            group.len(),
            spread(&of(&loss), 3, false),
            beside(&loss, 3),
            spread(&of(&Line::metric), 1, false),
            beside(&Line::metric, 1),
        );
    }
    text
}

/// Mean and standard deviation of a sample.
fn spread(values: &[f64], digits: usize, signed: bool) -> String {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let mean = match signed {
        true => format!("{mean:+.digits$}"),
        false => format!("{mean:.digits$}"),
    };
    match values.len() {
        0 | 1 => mean,
        n => format!("{mean} ± {:.digits$}", (squares / (n - 1) as f64).sqrt()),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

const MARKS: [&str; 2] = ["<!-- made by `cargo xtask guide` -->\n", "<!-- end -->"];

#[test]
fn the_page_shows_the_committed_runs() {
    let lines = read(&root().join("benches/results/augment.jsonl"));
    let keys: Vec<_> = lines.iter().map(Line::key).collect();
    assert!(keys.is_sorted() && !keys.is_empty(), "lines in order");
    let path = root().join("docs/guide/augmentation.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(MARKS[0]).expect("the mark before the table");
    let (_, after) = rest.split_once(MARKS[1]).expect("the mark behind the table");
    let made = format!("{before}{}\n{}\n{}{after}", MARKS[0], table(&lines), MARKS[1]);
    if std::env::var_os("FT_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap();
    assert!(
        there == made,
        "{} is out of date: run `cargo xtask guide`",
        path.display()
    );
}

#[test]
fn rows_are_means_over_seeds_and_differences_are_of_the_same_rows() {
    let line = |operators: &str, seed: u64, accuracy: f64| {
        Line(
            serde_json::json!({ "set": "SST-2", "rows": 500, "operators": operators, "seed": seed,
            "scores": { "loss": 1.0 - accuracy, "accuracy": accuracy, "made": 500 } }),
        )
    };
    let lines = [
        line("none", 0, 0.5),
        line("none", 1, 0.6),
        line("synonyms", 0, 0.52),
        line("synonyms", 1, 0.64),
    ];
    let rows = "| SST-2 | 500 | none | 2 | 500 | 0.450 ± 0.071 |  | 55.0 ± 7.1 |  |\n\
                | SST-2 | 500 | synonyms | 2 | 500 | 0.420 ± 0.085 | -0.030 ± 0.014 | 58.0 ± 8.5 | +3.0 ± 1.4 |\n";
    assert!(table(&lines).ends_with(rows), "{}", table(&lines));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.jsonl");
    lines.iter().rev().for_each(|line| keep(&path, vec![line.clone()]));
    assert_eq!(read(&path), lines);
}
