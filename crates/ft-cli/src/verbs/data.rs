//! `ft data`: shows what a configuration makes of its data, before anything is trained on it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use ft_data::{
    Bin, DataConfig, Dataset, Files, Place, Preference, Preview, PreviewToken, Tokenizer, load_augmented, load_samples,
};
use ft_train::RunConfig;
use serde_json::{Value, json};

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
    Preview(PreviewArgs),
    /// Write the records that data.augment makes, each with the record it comes from
    Augment(AugmentArgs),
}

#[derive(clap::Args, Debug)]
struct PreviewArgs {
    /// Configuration file
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// How many samples to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
    /// Look at data.valid instead of data.train
    #[arg(long)]
    valid: bool,
    /// The [[task]] to look at; the first where none is named
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    set: SetArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct AugmentArgs {
    /// Configuration file with a section [data.augment]
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// File to write (.jsonl); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The [[task]] whose records they are; the first where none is named
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    set: SetArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Data {
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Preview(args) => args.run(),
            Action::Augment(args) => args.run(),
        }
    }
}

impl AugmentArgs {
    fn run(self) -> Result<(), Failure> {
        output::must_not_exist(&self.out)?;
        let config = configs::load(&self.config, &self.set.set)?;
        let tokenizer = configs::tokenizer(&config)?;
        let section = section(&config, self.task.as_deref())?;
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
        if self.json {
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

impl PreviewArgs {
    fn run(self) -> Result<(), Failure> {
        let args = self;
        let config = configs::load(&args.config, &args.set.set)?;
        let tokenizer = configs::tokenizer(&config)?;
        let section = section(&config, args.task.as_deref())?;
        let data = match args.valid {
            false => load_samples(section.train_files()?, &section, &tokenizer)?,
            true => match section.valid_files()? {
                Some(files) => load_samples(files, &section.held_out(), &tokenizer)?,
                None => return Err(Failure::wrong_use("--valid: the configuration has no data.valid")),
            },
        };
        for warning in data.statistics.warnings() {
            tracing::warn!("{warning}");
        }
        match args.json {
            true => output::json(&object(&data, args.samples, &tokenizer)),
            false => output::write(&page(&data, args.samples, &tokenizer, colour())),
        }
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

fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

fn object(data: &Dataset, shown: usize, tokenizer: &Tokenizer) -> Value {
    let sample = |(sample, place): (&ft_data::Sample, &Place)| {
        let preview = Preview::new(sample, tokenizer);
        let mut object = json!({ "place": place.at, "file": data.files.get(place.file as usize), "learned": preview.learned, "tokens": preview.tokens });
        match &sample.preference {
            Preference::None => {}
            Preference::Over(rejected) => object["rejected"] = json!(Preview::new(rejected, tokenizer)),
            Preference::Rated(good) => object["label"] = json!(good),
        }
        object
    };
    let samples: Vec<Value> = data.samples.iter().zip(&data.places).take(shown).map(sample).collect();
    json!({
        "file": Files::from(data.files.iter().map(PathBuf::from).collect::<Vec<_>>()),
        "format": data.format,
        "learned_share": share(data),
        "statistics": data.statistics,
        "warnings": data.statistics.warnings(),
        "samples": samples,
    })
}

fn share(data: &Dataset) -> f64 {
    data.statistics.learned as f64 / (data.statistics.tokens as f64).max(1.0)
}

fn page(data: &Dataset, shown: usize, tokenizer: &Tokenizer, colour: bool) -> String {
    let mut page = String::new();
    for (sample, place) in data.samples.iter().zip(&data.places).take(shown) {
        let preview = Preview::new(sample, tokenizer);
        let place = match data.files.len() {
            1 => place.at.to_string(),
            _ => place.among(&data.files),
        };
        let told = match &sample.preference {
            Preference::None => "",
            Preference::Over(_) => ", chosen",
            Preference::Rated(true) => ", rated good",
            Preference::Rated(false) => ", rated bad",
        };
        page += &format!("{place}: {} tokens, {} learned{told}\n", sample.len(), preview.learned);
        page += &format!("{}\n\n", marked(&preview.tokens, colour));
        if let Some(rejected) = sample.rejected() {
            let preview = Preview::new(rejected, tokenizer);
            page += &format!(
                "{place}: {} tokens, {} learned, rejected\n",
                rejected.len(),
                preview.learned
            );
            page += &format!("{}\n\n", marked(&preview.tokens, colour));
        }
    }
    let s = &data.statistics;
    let files = Files::from(data.files.iter().map(PathBuf::from).collect::<Vec<_>>());
    page += &format!("{files} as {}\n", data.format.as_str());
    page += &format!("samples  {}\n", output::count(s.samples as u64));
    page += &format!(
        "tokens   {}, longest sample {}\n",
        output::count(s.tokens as u64),
        s.longest
    );
    page += &format!(
        "learned  {} ({:.1} %)\n",
        output::count(s.learned as u64),
        100.0 * share(data)
    );
    let stops: Vec<String> = s.stops.iter().map(|(token, n)| format!("{token} x {n}")).collect();
    page += &format!(
        "stops    {}\n",
        if stops.is_empty() {
            "none".into()
        } else {
            stops.join(", ")
        }
    );
    page + &histogram(&s.histogram)
}

/// Tokens divided by `|`, runs of learned ones between double brackets. Line breaks are written out.
fn marked(tokens: &[PreviewToken], colour: bool) -> String {
    let (open, close) = if colour {
        ("\x1b[32m[[", "]]\x1b[0m")
    } else {
        ("[[", "]]")
    };
    let runs = tokens.chunk_by(|a, b| a.learn == b.learn).map(|run| {
        let text = run
            .iter()
            .map(|t| t.text.replace('\n', "\\n"))
            .collect::<Vec<_>>()
            .join("|");
        if run[0].learn {
            format!("{open}{text}{close}")
        } else {
            text
        }
    });
    runs.collect::<Vec<_>>().join("|")
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
    fn learned_runs_stand_in_brackets() {
        let token = |text: &str, learn| PreviewToken {
            id: 0,
            text: text.into(),
            learn,
        };
        let tokens = [
            token("Q", false),
            token(":\n", false),
            token("yes", true),
            token("</s>", true),
        ];
        assert_eq!(marked(&tokens, false), "Q|:\\n|[[yes|</s>]]");
    }

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
