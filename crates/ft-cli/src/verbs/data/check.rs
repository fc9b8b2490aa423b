//! `ft data check`: what is wrong with the data, by file and line.

use ft_data::{Finding, check};
use serde_json::{Value, json};

use super::Common;
use crate::failure::Failure;
use crate::output;

#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Look for near duplicates as well: 5-word shingles with this Jaccard similarity or more, 0.8 where none is given
    #[arg(long, value_name = "SIMILARITY", num_args = 0..=1, default_missing_value = super::NEAR_TEXT)]
    near: Option<f64>,
}

impl CheckArgs {
    pub fn run(self) -> Result<(), Failure> {
        super::check_near(self.near)?;
        let opened = self.common.open()?;
        let (train, valid) = opened.sets()?;
        let findings = check(&train, valid.as_ref(), self.near, &opened.tokenizer)?;
        let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.wrong).collect();
        let samples = [Some(&train), valid.as_ref()].map(|data| data.map_or(0, |data| data.samples.len()));
        match self.common.json {
            true => output::json(
                &json!({ "ok": wrong.is_empty(), "train": samples[0], "valid": samples[1], "findings": findings }),
            )?,
            false => output::write(&page(&findings, samples))?,
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(format!("the data needs a change: {}", kinds(&wrong)))),
        }
    }
}

fn kinds(findings: &[&Finding]) -> String {
    let kinds = findings.iter().map(|finding| match json!(finding.kind) {
        Value::String(kind) => format!("{kind} ({})", finding.count),
        other => other.to_string(),
    });
    kinds.collect::<Vec<_>>().join(", ")
}

fn page(findings: &[Finding], [train, valid]: [usize; 2]) -> String {
    let mut page = String::new();
    for finding in findings {
        let label = if finding.wrong { "wrong" } else { "note" };
        page += &format!("{label}: {}\n", finding.what);
        for spot in &finding.places {
            let same = spot
                .same_as
                .as_ref()
                .map_or(String::new(), |other| format!(" as {other}"));
            page += &format!("  {}{same}\n", spot.at);
        }
        match finding.count - finding.places.len() {
            0 => {}
            more => page += &format!("  and {} more\n", output::count(more as u64)),
        }
    }
    let count = |n: usize| output::count(n as u64);
    let found = match findings.len() {
        0 => "nothing found",
        _ => "checked",
    };
    page + &format!(
        "{found}: {} training and {} held-out samples\n",
        count(train),
        count(valid)
    )
}
