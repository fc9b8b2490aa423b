//! `ft data augment`: what `[data.augment]` makes, in a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ft_data::{load_augmented, load_samples};
use serde_json::json;

use super::{Common, Opened};
use crate::failure::{Context, Failure};
use crate::output;

#[derive(clap::Args, Debug)]
pub struct AugmentArgs {
    #[command(flatten)]
    common: Common,
    /// File to write (.jsonl); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl AugmentArgs {
    pub fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let Opened {
            config,
            section,
            tokenizer,
        } = self.common.open()?;
        if section.augment.is_none() {
            return Err(Failure::wrong_use(
                "the configuration has no section [data.augment]; give it operators = [{ kind = \"synonyms\" }]",
            ));
        }
        let seed = config.train.seed;
        let mut train = load_samples(&section.train_files()?, &section, &tokenizer)?;
        if section.valid_files()?.is_none() && section.valid_split > 0.0 {
            // What a run would hold out.
            (train, _) = train.split(section.valid_split, seed, &tokenizer);
        }
        let made = load_augmented(&train, &section, seed, &tokenizer, None)?;
        let rows = made.map_or(Vec::new(), |made| made.rows);
        let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
        let mut text = String::new();
        for row in &rows {
            text += &format!("{}\n", row.record());
            for operator in &row.source.operators {
                *operators.entry(operator).or_default() += 1;
            }
        }
        std::fs::write(&self.out, text).context(self.out.display())?;
        if self.common.json {
            let records = train.samples.len();
            return output::json(
                &json!({ "out": self.out, "samples": records, "made": rows.len(), "operators": operators }),
            );
        }
        let by: Vec<String> = operators
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        output::write(&format!(
            "{} records, made of {} samples, in {}: {}\n",
            output::count(rows.len() as u64),
            output::count(train.samples.len() as u64),
            self.out.display(),
            by.join(", ")
        ))
    }
}
