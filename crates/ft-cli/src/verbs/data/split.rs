//! `ft data split`: the training records in two files, one to train on and one to hold out.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ft_data::{Row, load_records};
use serde_json::json;

use super::{Common, Opened};
use crate::failure::{Context, Failure};
use crate::output;

#[derive(clap::Args, Debug)]
pub struct SplitArgs {
    #[command(flatten)]
    common: Common,
    /// Share of the records to hold out, between 0 and 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    share: f64,
    /// Folder to write train.jsonl and valid.jsonl into; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Hold out this share of every value of a column of the files
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// Another choice of prompts; train.seed where none is given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl SplitArgs {
    pub fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        if !(self.share > 0.0 && self.share < 1.0) {
            return Err(Failure::wrong_use(format!(
                "--share {}: a share between 0 and 1, such as 0.1",
                self.share
            )));
        }
        let Opened {
            config,
            section,
            tokenizer,
        } = self.common.open()?;
        let records = load_records(section.train_files()?, &section, self.by.as_deref(), &tokenizer)?;
        let held_out = records.split(self.share, self.seed.unwrap_or(config.train.seed))?;
        let part = |out: bool| {
            let rows = records.rows.iter().zip(&held_out);
            rows.filter(|(_, held_out)| **held_out == out)
                .map(|(row, _)| row)
                .collect::<Vec<&Row>>()
        };
        let (train, valid) = (part(false), part(true));
        let draft = output::draft(&self.out);
        fs::create_dir_all(&draft).context(draft.display())?;
        for (name, rows) in [("train.jsonl", &train), ("valid.jsonl", &valid)] {
            super::write_lines(&draft.join(name), rows.iter().map(|row| row.line()))?;
        }
        fs::rename(&draft, &self.out).context(self.out.display())?;
        let by = self.by.as_ref().map(|_| values(&train, &valid));
        if self.common.json {
            return output::json(&json!({ "out": self.out, "train": train.len(), "valid": valid.len(), "by": by }));
        }
        let count = |n: usize| output::count(n as u64);
        let mut page = format!(
            "{}: {} records in train.jsonl, {} in valid.jsonl\n",
            self.out.display(),
            count(train.len()),
            count(valid.len())
        );
        if let (Some(column), Some(by)) = (self.by, by) {
            let mut rows = vec![vec![column, "train".into(), "valid".into()]];
            rows.extend(
                by.into_iter()
                    .map(|(value, [train, valid])| vec![value, count(train), count(valid)]),
            );
            page += &output::table(&rows, &[false, true, true]);
        }
        output::write(&page)
    }
}

/// Records of each value of the column, in both files.
fn values(train: &[&Row], valid: &[&Row]) -> BTreeMap<String, [usize; 2]> {
    let mut values: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (part, rows) in [train, valid].into_iter().enumerate() {
        for row in rows {
            values.entry(row.by.clone().unwrap_or_default()).or_default()[part] += 1;
        }
    }
    values
}
