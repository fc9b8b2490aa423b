//! `ft data dedup`: the training records without those that are there twice.

use std::path::PathBuf;

use ft_data::load_records;
use serde_json::json;

use super::{Common, Opened};
use crate::failure::Failure;
use crate::output;

#[derive(clap::Args, Debug)]
pub struct DedupArgs {
    #[command(flatten)]
    common: Common,
    /// File to write (.jsonl); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Take near duplicates out as well: 5-word shingles with this Jaccard similarity or more, 0.8 where none is given
    #[arg(long, value_name = "SIMILARITY", num_args = 0..=1, default_missing_value = super::NEAR_TEXT)]
    near: Option<f64>,
    /// Take records out whose prompt is in the held-out data
    #[arg(long)]
    held_out: bool,
}

impl DedupArgs {
    pub fn run(self) -> Result<(), Failure> {
        super::must_be_new_lines(&self.out)?;
        super::check_near(self.near)?;
        let Opened { section, tokenizer, .. } = self.common.open()?;
        let valid = section.valid_files()?;
        if self.held_out && valid.is_none() {
            return Err(Failure::wrong_use(
                "--held-out: the configuration has no data.valid; what data.valid_split holds out shares no prompt with the rest",
            ));
        }
        let records = load_records(section.train_files()?, &section, None, &tokenizer)?;
        let valid = valid
            .map(|files| load_records(files, &section.held_out(), None, &tokenizer))
            .transpose()?;
        let held_out = valid.as_ref().map(|valid| valid.data.samples.as_slice());
        let found = records.duplicates(self.near, held_out, &tokenizer)?;
        let mut out: Vec<usize> = [found.exact.as_slice(), &found.near].concat();
        if self.held_out {
            out.extend(&found.held_out);
        }
        out.sort_unstable();
        let kept = records.rows.iter().enumerate();
        let kept: Vec<_> = kept
            .filter(|(i, _)| out.binary_search(i).is_err())
            .map(|(_, row)| row)
            .collect();
        if kept.is_empty() {
            return Err(Failure::new(
                "no record would remain: every prompt is in the held-out data",
            ));
        }
        super::write_lines(&self.out, kept.iter().map(|row| row.line()))?;
        let (exact, near, leaked) = (found.exact.len(), found.near.len(), found.held_out.len());
        if self.common.json {
            return output::json(&json!({
                "out": self.out,
                "records": records.rows.len(),
                "kept": kept.len(),
                "exact": exact,
                "near": self.near.map(|_| near),
                "held_out": held_out.map(|_| leaked),
                "held_out_removed": self.held_out,
            }));
        }
        let mut told = vec![format!("{exact} exact duplicates")];
        if self.near.is_some() {
            told.push(format!("{near} near duplicates"));
        }
        let mut page = String::new();
        match (held_out.is_some(), self.held_out) {
            (true, true) => told.push(format!("{leaked} with held-out prompts")),
            (true, false) if leaked > 0 => {
                page = format!("{leaked} of those that remain have held-out prompts; --held-out takes them out too\n");
            }
            _ => {}
        }
        let count = |n: usize| output::count(n as u64);
        output::write(&format!(
            "{} of {} records in {}; taken out: {}\n{page}",
            count(kept.len()),
            count(records.rows.len()),
            self.out.display(),
            told.join(", ")
        ))
    }
}
