//! `ft data augment`: what `[data.augment]` makes, in a file.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use ft_data::{Dataset, Rewritten, load_augmented, load_records, load_samples, rewrite};
use serde_json::json;

use super::{Common, Opened, write_lines};
use crate::args::DeviceArg;
use crate::authors::Authors;
use crate::failure::Failure;
use crate::output;

#[derive(clap::Args, Debug)]
pub struct AugmentArgs {
    #[command(flatten)]
    common: Common,
    /// File to write (.jsonl); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArg,
}

impl AugmentArgs {
    pub fn run(self) -> Result<(), Failure> {
        super::must_be_new_lines(&self.out)?;
        let opened = self.common.open()?;
        let Opened {
            config,
            section,
            tokenizer,
        } = &opened;
        let Some(augment) = &section.augment else {
            return Err(Failure::wrong_use(
                "the configuration has no section [data.augment]; give it operators = [{ kind = \"synonyms\" }]",
            ));
        };
        let seed = config.train.seed;
        let mut train = load_samples(&section.train_files()?, section, tokenizer)?;
        if section.valid_files()?.is_none() && section.valid_split > 0.0 {
            // What a run would hold out.
            (train, _) = train.split(section.valid_split, seed, tokenizer);
        }
        if augment.asks() {
            return self.asked(&opened, &train);
        }
        let made = load_augmented(&train, section, seed, tokenizer, None)?;
        let made = Rewritten {
            rows: made.map_or(Vec::new(), |made| made.rows),
            ..Rewritten::default()
        };
        self.write(&made, train.samples.len())
    }

    /// What models make of the training records.
    fn asked(&self, opened: &Opened, train: &Dataset) -> Result<(), Failure> {
        let Opened {
            config,
            section,
            tokenizer,
        } = opened;
        let augment = section.augment.as_ref().expect("it asks models");
        let records = load_records(&section.train_files()?, section, None, tokenizer)?;
        let places: HashSet<_> = train.places.iter().collect();
        let rows = records.rows.iter().filter(|row| places.contains(&row.place));
        let rows: Vec<_> = rows.map(|row| (row.place, &row.fields)).collect();
        let mut authors = Authors::new(self.device.device);
        let (made, failure) = rewrite(
            augment,
            train.format,
            &train.files,
            &rows,
            config.train.seed,
            &mut authors,
        )?;
        match failure {
            None if made.rows.is_empty() => Err(Failure::new(format!(
                "nothing was made of {} texts{}",
                made.asked,
                dropped(&made)
            ))),
            None => self.write(&made, train.samples.len()),
            Some(failure) if made.rows.is_empty() => Err(failure),
            Some(failure) => {
                self.write(&made, train.samples.len())?;
                Err(failure.hint(format!("what was made until then is in {}", self.out.display())))
            }
        }
    }

    fn write(&self, made: &Rewritten, samples: usize) -> Result<(), Failure> {
        let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
        for operator in made.rows.iter().flat_map(|row| &row.source.operators) {
            *operators.entry(operator).or_default() += 1;
        }
        write_lines(&self.out, made.rows.iter().map(|row| row.record().to_string()))?;
        let count = made.rows.len();
        if self.common.json {
            let mut told = json!({ "out": self.out, "samples": samples, "made": count, "operators": operators });
            if made.asked > 0 {
                told["asked"] = made.asked.into();
                told["dropped"] = json!(made.dropped);
            }
            return output::json(&told);
        }
        let by = operators.iter().map(|(name, count)| format!("{name} {count}"));
        output::write(&format!(
            "{} records, made of {} samples, in {}: {}{}\n",
            output::count(count as u64),
            output::count(samples as u64),
            self.out.display(),
            by.collect::<Vec<_>>().join(", "),
            dropped(made)
        ))
    }
}

/// Why texts were left as they are.
fn dropped(made: &Rewritten) -> String {
    let all: usize = made.dropped.values().sum();
    let by = made.dropped.iter().map(|(why, count)| format!("{why} {count}"));
    match all {
        0 => String::new(),
        _ => format!(
            "; {} of {} texts were left out: {}",
            output::count(all as u64),
            output::count(made.asked as u64),
            by.collect::<Vec<_>>().join(", ")
        ),
    }
}
