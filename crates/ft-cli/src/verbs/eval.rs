//! `ft eval`: how well a model does on a file of examples.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use ft_data::{DataConfig, FormatName, Overlong, Sample, load_samples};
use ft_eval::{EvalConfig, Report};

use crate::args::DeviceArg;
use crate::failure::Failure;
use crate::model::{Loaded, width_multiple, working_dtype};
use crate::verbs::generate::Sampling;
use crate::{device, locate, logging, output};

/// Measure a model on a file of examples
#[derive(clap::Args, Debug)]
pub struct Eval {
    /// Folder, run folder (whose data settings then apply), or embedded:tiny
    #[arg(value_name = "MODEL")]
    model: String,
    /// Examples: .jsonl, .json, .csv, .tsv or .txt
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Adapter folder in PEFT layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// text, prompt-completion, instruct or chat; recognised by its columns when left out
    #[arg(long, value_name = "F")]
    format: Option<FormatName>,
    /// Fill a field of the format from other columns, e.g. --map "prompt=Facts: {mr}" (repeatable)
    #[arg(long, value_name = "FIELD=TEXT", value_parser = field)]
    map: Vec<(String, String)>,
    /// Names, separated by commas: perplexity, exact_match, bleu, rouge_l
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "perplexity")]
    metric: Vec<String>,
    /// Samples in one forward pass
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Longest sample in tokens; longer ones are cut
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Answer at most so many prompts, for the metrics that need answers
    #[arg(long, value_name = "N")]
    max_answers: Option<usize>,
    #[command(flatten)]
    sampling: Sampling,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArg,
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected FIELD=TEXT")?;
    Ok((name.trim().to_string(), value.to_string()))
}

impl Eval {
    pub fn run(self) -> Result<(), Failure> {
        for name in &self.metric {
            ft_eval::find(name).map_err(Failure::wrong_use)?;
        }
        let data = self.data_config()?;
        let located = locate::locate(&self.model, self.adapter.as_deref())?;
        let picked = device::pick(self.device.device)?;
        let loaded = Loaded::open(located, working_dtype(&picked), &picked)?;
        let tokenizer = data.tokenizer(loaded.tokenizer.clone())?;
        let positions = loaded.model.positions();
        let data = DataConfig {
            max_length: data.max_length.min(positions),
            ..data
        };
        let set = load_samples(&self.data, &data, &tokenizer).map_err(in_flags)?;
        for warning in set.statistics.warnings() {
            tracing::warn!("{warning}");
        }
        let config = EvalConfig {
            metrics: self.metric.clone(),
            batch_size: self.batch as usize,
            multiple: width_multiple(&picked),
            generation: loaded.generation(&self.sampling.options())?,
            max_answers: self.max_answers,
        };
        let mut progress = Progress::start();
        // Of preferences, what the model should have said.
        let samples: Vec<Sample> = set.samples.iter().filter_map(Sample::wanted).collect();
        let report = ft_eval::report(&loaded.model, &tokenizer, &samples, &config, &mut |s| progress.show(s))?;
        progress.end();
        if self.json {
            output::json(&report)
        } else {
            output::write(&page(&report))
        }
    }

    /// Settings of the run that the model comes from, where nothing else was typed.
    fn data_config(&self) -> Result<DataConfig, Failure> {
        let run = Path::new(&self.model).join("config.toml");
        let mut config = match run.is_file() && self.format.is_none() && self.map.is_empty() {
            true => ft_train::RunConfig::load(&run, &[])?.data,
            false => DataConfig::new(&self.data),
        };
        config.train = self.data.clone();
        (config.valid, config.valid_split) = (None, 0.0);
        config.format = self.format.or(config.format);
        config.map.extend(self.map.iter().cloned().collect::<BTreeMap<_, _>>());
        config.max_length = self.max_length.unwrap_or(config.max_length);
        if config.overlong == Overlong::Error {
            config.overlong = Overlong::Truncate;
        }
        config.check()?;
        Ok(config)
    }
}

/// The library names configuration keys; here they are flags.
fn in_flags(error: ft_data::Error) -> Failure {
    let settings = matches!(error, ft_data::Error::Config { .. });
    match Failure::from(error) {
        failure if settings => {
            failure.context("the data cannot be read as asked (--format sets data.format, --map data.map)")
        }
        failure => failure,
    }
}

fn page(report: &Report) -> String {
    let mut rows = vec![
        vec!["loss".to_string(), format!("{:.6}", report.loss)],
        vec!["perplexity".into(), format!("{:.4}", report.perplexity)],
        vec!["tokens".into(), output::count(report.tokens as u64)],
        vec!["samples".into(), output::count(report.samples as u64)],
    ];
    rows.extend(
        report
            .metrics
            .iter()
            .map(|(name, value)| vec![name.to_string(), format!("{value:.4}")]),
    );
    output::table(&rows, &[false, true])
}

/// A percentage on a terminal's stderr, and nothing elsewhere.
struct Progress {
    shown: Option<u32>,
}

impl Progress {
    fn start() -> Self {
        Self {
            shown: (std::io::stderr().is_terminal() && !logging::quiet()).then_some(u32::MAX),
        }
    }

    fn show(&mut self, share: f64) {
        let percent = (share * 100.0) as u32;
        if let Some(shown) = self.shown.as_mut().filter(|shown| **shown != percent) {
            *shown = percent;
            // Progress is not worth an evaluation: a closed stderr is ignored.
            let _ = write!(std::io::stderr(), "\r{percent:>3} %");
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r     \r");
        }
    }
}
