//! `ft data`: shows what a configuration makes of its data, before anything is trained on it. One file for each action.

mod augment;
mod preview;
mod stats;

use std::path::PathBuf;

use clap::Subcommand;
use ft_data::{Bin, DataConfig, Dataset, Tokenizer, load_samples};
use ft_train::RunConfig;

use crate::args::SetArg;
use crate::failure::Failure;
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
    /// Write the records that data.augment makes, each with the record it comes from
    Augment(augment::AugmentArgs),
}

impl Data {
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Preview(args) => args.run(),
            Action::Stats(args) => args.run(),
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
