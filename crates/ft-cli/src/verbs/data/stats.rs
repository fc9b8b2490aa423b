//! `ft data stats`: what training and held-out samples come to, in numbers.

use ft_data::{Dataset, Lengths, Padding, Statistics, repeated_prompts};
use serde::Serialize;

use super::{Common, histogram};
use crate::failure::Failure;
use crate::output;

#[derive(clap::Args, Debug)]
pub struct StatsArgs {
    #[command(flatten)]
    common: Common,
}

/// The numbers of both parts.
#[derive(Serialize)]
struct Stats {
    format: &'static str,
    train: Part,
    valid: Option<Part>,
}

#[derive(Serialize)]
struct Part {
    files: Vec<String>,
    #[serde(flatten)]
    statistics: Statistics,
    learned_share: f64,
    lengths: Lengths,
    /// Prompts that several samples have.
    repeated_prompts: usize,
    /// How training fills its rows; of held-out samples nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    padding: Option<Padding>,
    warnings: Vec<String>,
}

impl StatsArgs {
    pub fn run(self) -> Result<(), Failure> {
        let opened = self.common.open()?;
        let (train, valid) = opened.sets()?;
        let padding = Padding::measure(
            &train.samples,
            &opened.section,
            opened.config.train.batch_size.count(),
            opened.config.train.seed,
        );
        let stats = Stats {
            format: train.format.as_str(),
            train: Part::of(train, padding),
            valid: valid.map(|valid| Part::of(valid, None)),
        };
        match self.common.json {
            true => output::json(&stats),
            false => output::write(&page(&stats)),
        }
    }
}

impl Part {
    fn of(data: Dataset, padding: Option<Padding>) -> Part {
        Part {
            learned_share: data.statistics.learned as f64 / (data.statistics.tokens as f64).max(1.0),
            lengths: Lengths::measure(&data.samples),
            repeated_prompts: repeated_prompts(&data.samples),
            padding,
            warnings: data.warnings(),
            statistics: data.statistics,
            files: data.files,
        }
    }
}

fn page(stats: &Stats) -> String {
    let parts = [("training", Some(&stats.train)), ("held out", stats.valid.as_ref())];
    let parts = parts.iter().filter_map(|(name, part)| Some(block(name, (*part)?)));
    format!("format {}\n\n{}", stats.format, parts.collect::<Vec<_>>().join("\n"))
}

fn block(name: &str, part: &Part) -> String {
    let (s, lengths) = (&part.statistics, &part.lengths);
    let number = |n: usize| output::count(n as u64);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let stops: Vec<String> = s.stops.iter().map(|(token, n)| format!("{token} x {n}")).collect();
    let mut rows = vec![
        ("samples", number(s.samples)),
        ("tokens", number(s.tokens)),
        (
            "learned",
            format!("{} ({})", number(s.learned), percent(part.learned_share)),
        ),
        (
            "length",
            format!(
                "mean {:.1}, median {}, p95 {}, longest {}",
                lengths.mean, lengths.median, lengths.p95, lengths.longest
            ),
        ),
        (
            "stops",
            match stops.is_empty() {
                true => "none".into(),
                false => stops.join(", "),
            },
        ),
        ("without stop", number(s.without_stop)),
        ("repeated prompts", number(part.repeated_prompts)),
    ];
    if let Some(padding) = &part.padding {
        rows.push((
            "padding",
            format!("{} of the cells without packing", percent(padding.padded)),
        ));
        if let Some(packed) = padding.packed {
            rows.push(("packed", format!("{} of the cells hold tokens", percent(packed))));
        }
    }
    let warnings: String = part.warnings.iter().map(|text| format!("warning: {text}\n")).collect();
    let files = part.files.join(", ");
    format!(
        "{name}: {files}\n{}{warnings}{}",
        output::fields(&rows),
        histogram(&s.histogram)
    )
}
