//! `ft data`: shows what a configuration makes of its data, before anything is trained on it. One file for each action.

mod augment;
mod check;
mod convert;
mod dedup;
mod preview;
mod split;
mod stats;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ft_data::{Bin, DataConfig, Dataset, Tokenizer, load_samples, near_duplicates};
use ft_train::RunConfig;

use crate::args::SetArg;
use crate::failure::{Context, Failure};
use crate::{configs, output};

/// Look at training data the way training sees it
#[derive(clap::Args, Debug)]
pub struct Data {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show rendered samples token by token, the learned ones marked, and statistics of the whole file
    Preview(preview::PreviewArgs),
    /// Count samples, tokens, lengths, stop tokens, repeated prompts and padding
    Stats(stats::StatsArgs),
    /// Find leaks, duplicates, samples that teach no stop token; status 1 where something is wrong
    Check(check::CheckArgs),
    /// Write the training records without duplicates
    Dedup(dedup::DedupArgs),
    /// Write the training records in two files, one to hold out
    Split(split::SplitArgs),
    /// Write the records as JSON lines with the fields of their format
    Convert(convert::ConvertArgs),
    /// Write the records that data.augment makes, each with the record it comes from
    Augment(augment::AugmentArgs),
}

impl Data {
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Preview(args) => args.run(),
            Action::Stats(args) => args.run(),
            Action::Check(args) => args.run(),
            Action::Dedup(args) => args.run(),
            Action::Split(args) => args.run(),
            Action::Convert(args) => args.run(),
            Action::Augment(args) => args.run(),
        }
    }
}

/// What every action takes.
#[derive(clap::Args, Debug)]
struct Common {
    /// Configuration file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// The [[task]] whose data it is; the first where none is named
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    set: SetArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A configuration and what reads its data.
struct Opened {
    config: RunConfig,
    section: DataConfig,
    tokenizer: Tokenizer,
}

impl Common {
    fn open(&self) -> Result<Opened, Failure> {
        let config = configs::load(&self.config, &self.set.set)?;
        Ok(Opened {
            tokenizer: configs::tokenizer(&config)?,
            section: section(&config, self.task.as_deref())?,
            config,
        })
    }
}

impl Opened {
    /// Training and held-out samples, as a run has them before it augments.
    fn sets(&self) -> Result<(Dataset, Option<Dataset>), Failure> {
        let (section, tokenizer) = (&self.section, &self.tokenizer);
        let train = load_samples(section.train_files()?, section, tokenizer)?;
        Ok(match section.valid_files()? {
            Some(files) => (train, Some(load_samples(files, &section.held_out(), tokenizer)?)),
            None if section.valid_split > 0.0 => {
                let (train, valid) = train.split(section.valid_split, self.config.train.seed, tokenizer);
                (train, Some(valid))
            }
            None => (train, None),
        })
    }
}

/// What `--near` stands for without a number.
const NEAR_TEXT: &str = "0.8";

/// Refuses a similarity that would compare everything with everything.
fn check_near(near: Option<f64>) -> Result<(), Failure> {
    let checked = near.map_or(Ok(Vec::new()), |near| near_duplicates(&[], near));
    checked
        .map(drop)
        .map_err(|error| Failure::wrong_use(format!("--near: {error}")))
}

/// Refuses to write over what is there, and names with which the file would be read as something else.
fn must_be_new_lines(out: &Path) -> Result<(), Failure> {
    output::must_not_exist(out)?;
    match out.extension().is_some_and(|ending| ending == "jsonl") {
        true => Ok(()),
        false => Err(Failure::wrong_use(format!(
            "--out {}: JSON lines are written; name the file .jsonl",
            out.display()
        ))),
    }
}

/// Writes lines into a file that is there once it is whole.
fn write_lines(out: &Path, lines: impl Iterator<Item = String>) -> Result<(), Failure> {
    let draft = output::draft(out);
    let text: String = lines.map(|line| line + "\n").collect();
    std::fs::write(&draft, text).context(out.display())?;
    std::fs::rename(&draft, out).context(out.display())
}

/// The data of a task, or of a run without tasks.
fn section(config: &RunConfig, task: Option<&str>) -> Result<DataConfig, Failure> {
    let names: Vec<&str> = config.task.iter().map(|task| task.name.as_str()).collect();
    let found = match task {
        Some(name) => config.task.iter().find(|task| task.name == name),
        None => config.task.first(),
    };
    match (found, task) {
        (Some(task), _) => Ok(task.data(&config.data)),
        (None, None) => Ok(config.data.clone()),
        (None, Some(name)) => Err(Failure::wrong_use(format!(
            "--task: the configuration has no [[task]] `{name}`; its tasks: {}",
            if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            }
        ))),
    }
}

fn histogram(bins: &[Bin]) -> String {
    const WIDTH: usize = 40;
    let most = bins.iter().map(|b| b.samples).max().unwrap_or(0).max(1);
    let row = |bin: &Bin| {
        let bar = "#".repeat((bin.samples * WIDTH).div_ceil(most));
        vec![format!("up to {}", bin.up_to), output::count(bin.samples as u64), bar]
    };
    let rows: Vec<Vec<String>> = bins.iter().map(row).collect();
    format!("lengths\n{}", output::table(&rows, &[true, true, false]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bin_gets_a_bar() {
        let bins = [
            Bin { up_to: 8, samples: 1 },
            Bin {
                up_to: 16,
                samples: 1000,
            },
        ];
        let text = histogram(&bins);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(1).unwrap().ends_with(" #"), "{text}");
    }
}
