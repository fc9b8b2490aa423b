//! `ft eval`: how well a model does on a file of examples, or how good the answers in a file are.

mod heads;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use ft_data::{DataConfig, Dataset, Files, FormatName, Overlong, Role, Sample, load_samples};
use ft_eval::{Answer, BleuTokenizer, EvalConfig, Metric, Report, Scores, Settings, Smoothing};
use serde::Serialize;

use crate::args::DeviceArg;
use crate::failure::{Context, Failure};
use crate::model::{Loaded, width_multiple};
use crate::verbs::generate::Sampling;
use crate::weights::Weights;
use crate::{device, hub, locate, logging, output};

/// Measure a model on a file of examples, or score a file of predictions
#[derive(clap::Args, Debug)]
pub struct Eval {
    /// Folder, run folder (whose data settings then apply), or embedded:tiny
    #[arg(value_name = "MODEL", required_unless_present = "predictions")]
    model: Option<String>,
    /// Examples: .jsonl, .json, .csv, .tsv or .txt, plain or with .gz or .zst behind it, or a folder of such files; those with the same
    /// prompt are each other's alternatives. For acc and acc_norm,
    /// JSONL of {"prompt": text, "choices": [text, ..], "answer": index}, or rows of ARC, HellaSwag or MMLU
    #[arg(long, value_name = "FILE", required_unless_present = "predictions")]
    data: Option<PathBuf>,
    /// The split to take of a folder; validation, or else test, where it has them
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Score these answers instead, without a model: JSONL of {"prediction": text, "references": [text, ..]}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "data", "split", "adapter", "format", "map", "max_length", "max_answers", "out", "quant"])]
    predictions: Option<PathBuf>,
    /// Write the model's answers as JSONL, in the form that --predictions reads
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Adapter folder in PEFT layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[arg(long, value_name = "F", help = format_help())]
    format: Option<FormatName>,
    /// Fill a field of the format from other columns, e.g. --map "prompt=Facts: {mr}" (repeatable)
    #[arg(long, value_name = "FIELD=TEXT", value_parser = field)]
    map: Vec<(String, String)>,
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help = metric_help())]
    metric: Vec<String>,
    #[command(flatten)]
    choices: Choices,
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
    weights: Weights,
    #[command(flatten)]
    device: DeviceArg,
}

/// What the text metrics leave open.
#[derive(clap::Args, Debug)]
struct Choices {
    /// How BLEU cuts text: 13a, intl, char or none
    #[arg(long, value_name = "NAME", default_value_t)]
    tokenize: BleuTokenizer,
    /// What BLEU does where no n-gram is right: exp, floor, add-k or none
    #[arg(long, value_name = "NAME", default_value = "exp")]
    smooth_method: String,
    /// The value of floor (0.1) or add-k (1)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    smooth_value: Option<f64>,
    /// BLEU and chrF without regard to case
    #[arg(long)]
    lowercase: bool,
    /// ROUGE of word stems (Porter's)
    #[arg(long)]
    stem: bool,
}

impl Choices {
    fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings {
            tokenizer: self.tokenize,
            smoothing: Smoothing::new(&self.smooth_method, self.smooth_value).map_err(Failure::wrong_use)?,
            lowercase: self.lowercase,
            stem: self.stem,
        })
    }
}

/// What predictions are scored by where nothing was asked for.
const TEXT_METRICS: [&str; 8] = [
    "exact_match",
    "f1",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
];

fn format_help() -> String {
    let names: Vec<&str> = FormatName::all().map(|format| format.as_str()).collect();
    format!("{}; recognised by its columns when left out", names.join(", "))
}

fn metric_help() -> String {
    format!(
        "Names, separated by commas: {} [default: perplexity; of --predictions: {}]",
        ft_eval::metrics::names(),
        TEXT_METRICS.join(",")
    )
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected FIELD=TEXT")?;
    Ok((name.trim().to_string(), value.to_string()))
}

impl Eval {
    pub fn run(mut self) -> Result<(), Failure> {
        self.data = self.data.map(|data| local(data, self.split.as_deref())).transpose()?;
        let settings = self.choices.settings()?;
        let metrics = self.metrics()?;
        let choices = metrics.iter().filter(|metric| metric.needs_choices()).count();
        match (&self.predictions, &self.model, &self.data) {
            (Some(file), ..) => self.score(file, &metrics, &settings),
            (None, Some(model), Some(data)) if choices > 0 && choices == metrics.len() => {
                self.choose(model, data, &metrics)
            }
            (None, Some(_), Some(_)) if choices > 0 => Err(Failure::wrong_use(
                "--metric: acc and acc_norm are of multiple-choice questions, the other metrics are not; ask for them in two calls",
            )),
            (None, Some(model), Some(data)) => self.measure(model, data, settings),
            _ => Err(Failure::wrong_use("MODEL with --data, or --predictions, is needed")),
        }
    }

    /// What was asked for, or what predictions are scored by where nothing was.
    fn metrics(&self) -> Result<Vec<&'static Metric>, Failure> {
        let of_answers = |name: &&str| !heads::METRICS.contains(name);
        let typed: Vec<&str> = self.metric.iter().map(String::as_str).filter(of_answers).collect();
        let names = match typed.is_empty() && self.predictions.is_some() {
            true => TEXT_METRICS.to_vec(),
            false => typed,
        };
        let found: Result<_, _> = names.into_iter().map(ft_eval::find).collect();
        found.map_err(Failure::wrong_use)
    }

    fn score(&self, file: &Path, metrics: &[&Metric], settings: &Settings) -> Result<(), Failure> {
        if let Some(metric) = metrics.iter().find(|metric| !metric.needs_answers()) {
            return Err(Failure::wrong_use(format!(
                "--metric {}: predictions say nothing about it; it needs MODEL and --data",
                metric.name
            )));
        }
        let text = std::fs::read(file).context(file.display())?;
        let answers = ft_eval::read_predictions(&text).context(file.display())?;
        let scores = ft_eval::score(metrics, &answers, settings);
        self.print(answers.len(), &scores)
    }

    fn measure(&self, model: &str, data: &Path, settings: Settings) -> Result<(), Failure> {
        self.out.as_deref().map_or(Ok(()), output::must_not_exist)?;
        let config = self.data_config(model, data)?;
        let located = locate::locate(model, self.adapter.as_deref())?;
        let picked = device::pick(self.device.device)?;
        let loaded = Loaded::open(located, self.weights, &picked)?;
        let tokenizer = config.tokenizer(loaded.tokenizer.clone())?;
        let positions = loaded.model.positions();
        let config = DataConfig {
            max_length: config.max_length.min(positions),
            labels: loaded.model.head().map(ft_train::labels),
            ..config
        };
        let files = Files::from(data).resolve(config.split.as_deref(), Role::HeldOut)?;
        let set = load_samples(files, &config, &tokenizer).map_err(in_flags)?;
        for warning in set.warnings() {
            tracing::warn!("{warning}");
        }
        if loaded.model.head().is_some() {
            return self.measure_head(&loaded, &set, width_multiple(&picked));
        }
        let config = EvalConfig {
            metrics: self.metric.clone(),
            settings,
            answer: self.out.is_some(),
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
        if let Some(out) = &self.out {
            write_answers(out, &report.answers)?;
        }
        if self.json {
            output::json(&report)
        } else {
            output::write(&page(&report))
        }
    }

    /// What the head of a model says of labelled texts.
    fn measure_head(&self, loaded: &Loaded, set: &Dataset, multiple: usize) -> Result<(), Failure> {
        let mut progress = Progress::start();
        let (batch, show) = (self.batch as usize, &mut |share| progress.show(share));
        let report = ft_eval::head_report(&loaded.model, &set.samples, batch, multiple, show)?;
        progress.end();
        let scores = heads::chosen(report.answers.scores(), &self.metric)?;
        if let Some(out) = &self.out {
            let head = loaded.model.head().expect("a model with a head");
            heads::write(out, head, &report.answers, set.samples.len())?;
        }
        let measured = heads::Measured::of(&report, scores);
        match self.json {
            true => output::json(&measured),
            false => output::write(&measured.page()),
        }
    }

    /// Multiple choice by log-likelihood.
    fn choose(&self, model: &str, data: &Path, metrics: &[&Metric]) -> Result<(), Failure> {
        if self.out.is_some() {
            return Err(Failure::wrong_use("--out: multiple choice writes no answers"));
        }
        let text = std::fs::read(data).context(data.display())?;
        let questions = ft_eval::read_questions(&text).context(data.display())?;
        let picked = device::pick(self.device.device)?;
        let located = locate::locate(model, self.adapter.as_deref())?;
        let loaded = Loaded::open(located, self.weights, &picked)?;
        let (batch, multiple) = (self.batch as usize, width_multiple(&picked));
        let mut progress = Progress::start();
        let choices = ft_eval::choose(
            &loaded.model,
            &loaded.tokenizer,
            &questions,
            batch,
            multiple,
            &mut |share| {
                progress.show(share);
            },
        )?;
        progress.end();
        let scores = Scores {
            values: ft_eval::score_choices(metrics, &choices),
            ..Scores::default()
        };
        self.print(questions.len(), &scores)
    }

    fn print(&self, samples: usize, scores: &Scores) -> Result<(), Failure> {
        match self.json {
            true => output::json(&Scored {
                samples,
                values: &scores.values,
                signatures: &scores.signatures,
            }),
            false => output::write(&scores_page(samples, scores)),
        }
    }

    /// Settings of the run that the model comes from, where nothing else was typed.
    fn data_config(&self, model: &str, data: &Path) -> Result<DataConfig, Failure> {
        let run = Path::new(model).join("config.toml");
        let mut config = match run.is_file() && self.format.is_none() && self.map.is_empty() {
            true => ft_train::RunConfig::load(&run, &[])?.data,
            false => DataConfig::new(data),
        };
        config.train = data.into();
        config.cache_folder = Some(crate::configs::token_cache());
        (config.valid, config.valid_split, config.valid_split_name) = (None, 0.0, None);
        (config.split, config.limit) = (self.split.clone(), None);
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

/// The file or folder of a data set of the Hub; other paths as they are.
fn local(data: PathBuf, split: Option<&str>) -> Result<PathBuf, Failure> {
    let mut files = Files::from(&data);
    hub::fetch_data(&mut files, &[(split.map(str::to_owned), Role::HeldOut)])?;
    Ok(files.paths().first().cloned().unwrap_or(data))
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

fn write_answers(out: &Path, answers: &[Answer]) -> Result<(), Failure> {
    let mut text = String::new();
    for answer in answers {
        text.push_str(&serde_json::to_string(answer)?);
        text.push('\n');
    }
    let draft = output::draft(out);
    std::fs::write(&draft, text).context(draft.display())?;
    std::fs::rename(&draft, out).context(out.display())
}

/// The scores of predictions or questions.
#[derive(Serialize)]
struct Scored<'a> {
    samples: usize,
    #[serde(flatten)]
    values: &'a BTreeMap<&'static str, f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    signatures: &'a BTreeMap<&'static str, String>,
}

fn scores_page(samples: usize, scores: &Scores) -> String {
    let mut rows = vec![vec!["samples".into(), output::count(samples as u64)]];
    rows.extend(metric_rows(&scores.values, &scores.signatures));
    output::table(&rows, &[false, true])
}

fn page(report: &Report) -> String {
    let mut rows = vec![
        vec!["loss".to_string(), format!("{:.6}", report.loss)],
        vec!["perplexity".into(), format!("{:.4}", report.perplexity)],
        vec!["tokens".into(), output::count(report.tokens as u64)],
        vec!["samples".into(), output::count(report.samples as u64)],
    ];
    rows.extend(metric_rows(&report.metrics, &report.signatures));
    output::table(&rows, &[false, true])
}

/// Values, each with its signature where it has one.
fn metric_rows<'a>(
    values: &'a BTreeMap<&'static str, f64>,
    signatures: &'a BTreeMap<&'static str, String>,
) -> impl Iterator<Item = Vec<String>> {
    values.iter().map(|(name, value)| {
        let signature = signatures.get(name).cloned().unwrap_or_default();
        vec![name.to_string(), format!("{value:.4}"), signature]
    })
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
