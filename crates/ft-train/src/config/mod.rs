//! Section by section, what a person types: [`RunConfig`], read from TOML.
//!
//! ```text
//! base.toml (extends) ─┐
//! run.toml ────────────┼─ merge ─ unknown keys, types ─ paths made absolute ─ RunConfig
//! --set optim.lr=1e-4 ─┘
//! ```
//!
//! A relative path is looked up from the folder of the file it is written in, then from the current folder; a path
//! given by `--set` from the current folder. Outputs (`train.out`) start from the current folder.

mod batch_size;
mod check;
mod checkpointing;
pub(crate) mod continual;
mod objective;
mod paths;
mod peft;
mod sections;
mod source;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use ft_data::DataConfig;
use ft_infer::GenerationOptions;
use ft_optim::{OptimConfig, Schedule};
use ft_peft::PeftConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::DeValue;

use crate::objectives::ObjectiveConfig;
use crate::{Error, Result};
pub use batch_size::BatchSize;
pub(crate) use batch_size::bytes_of;
pub use checkpointing::Checkpointing;
pub use continual::ContinualSection;
pub use objective::ObjectiveSection;
pub use peft::PeftSection;
pub use sections::*;
use source::{Sources, Tree};
pub use tasks::{AdapterSharing, EpochEnd, MixBy, MixOrder, MixtureSection, TaskConfig};
pub use write::Provenance;

/// One thing wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// `file:line:column`, or the `--set` argument.
    pub at: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Issue {
    fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            at: at.into(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for Issue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.at.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.at, self.message)
        }
    }
}

/// A whole run as it was typed. What it means is decided by [`crate::Plan`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The base model.
    pub model: ModelSection,
    /// What trains.
    #[serde(default)]
    pub peft: PeftSection,
    /// What it learns from.
    #[serde(default = "no_data")]
    pub data: DataConfig,
    /// Several tasks, in the place of `data.train` and `data.valid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task: Vec<TaskConfig>,
    /// How often each task has its turn.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mixture: MixtureSection,
    /// The tasks one after the other, without forgetting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continual: Option<ContinualSection>,
    /// What is minimized.
    #[serde(default)]
    pub objective: ObjectiveSection,
    /// How steps are made of gradients.
    #[serde(default)]
    pub optim: OptimConfig,
    /// How the learning rate moves.
    #[serde(default)]
    pub schedule: Schedule,
    /// How long, in what batches, and what is written where.
    pub train: TrainSection,
    /// How the held-out samples are used.
    #[serde(default)]
    pub eval: EvalSection,
    /// How sample answers are generated, over what the checkpoint itself says.
    #[serde(default)]
    pub generate: GenerationOptions,
}

fn no_data() -> DataConfig {
    DataConfig::new("")
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Free-form tables: a file that gives one replaces the one it extends, instead of mixing two.
const WHOLE: &[&str] = &["data.map"];

/// Keys that exclude each other: one that is typed over a file displaces the other of that file. `--set train.steps=20` is
/// all that a short trial of a run of `epochs` takes.
const DISPLACES: &[(&str, &str)] = &[
    ("train.steps", "train.epochs"),
    ("train.epochs", "train.steps"),
    ("task", "data.train"),
    ("task", "data.valid"),
    ("continual.steps_per_task", "train.steps"),
    ("continual.steps_per_task", "train.epochs"),
    ("data.valid", "data.valid_split"),
    ("data.valid_split", "data.valid"),
    ("peft.from", "peft"),
];

/// Sections whose other keys depend on one of them, and what that one is where it is not given.
const TAGGED: [(&str, &str, &str); 2] = [
    ("peft", "peft.method", PeftConfig::NAMES[0]),
    ("objective", "objective.kind", ObjectiveConfig::NAMES[0]),
];

impl RunConfig {
    /// Whether each task has a model of its own, which answers its own prompts.
    pub fn separates_tasks(&self) -> bool {
        let next = self.continual.as_ref().map(ContinualSection::next);
        next == Some(crate::continual::Next::Separate) || self.mixture.adapter == AdapterSharing::PerTask
    }

    /// Reads a file, the one it `extends`, and `--set` arguments (`a.b=value`) on top.
    ///
    /// Every unknown key and wrong type is reported at once, with its place.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let text = read(path)?;
        Self::parse(path, text, sets)
    }

    /// As [`RunConfig::load`], for a text that is not (or not only) on disk; `path` names it in messages, and its
    /// folder is where relative paths start.
    pub fn parse(path: &Path, text: String, sets: &[String]) -> Result<Self> {
        let mut sources = Sources::default();
        let own = sources.add_file(path, text);
        let base = extended(&sources, own, path)?;
        let base = match base {
            Some(file) => {
                let text = read(&file)?;
                Some(sources.add_file(&file, text))
            }
            None => None,
        };
        let sets: Vec<usize> = sets.iter().map(|s| sources.add_set(s)).collect();
        let tree = merged(&sources, own, base, &sets)?;
        let tree = with_out(tree, path);
        let rate_is_typed = source::holds(&tree, "optim.lr");
        let mut config = from_tree(tree, &sources)?;
        let chosen = rate_is_typed || config.optim.makes_its_rate();
        let factor = config.objective.kind().rate_factor();
        if !chosen && let Some(optim) = with_lr_of(&config.peft, &config.optim, factor) {
            config.optim = optim;
        }
        Ok(config)
    }

    /// The JSON schema of a configuration file, for editors.
    pub fn schema() -> serde_json::Value {
        let mut schema = serde_json::to_value(schemars::schema_for!(RunConfig)).unwrap_or_default();
        schema["properties"]["extends"] = serde_json::json!({
            "type": "string",
            "description": "A file whose keys apply where this one has none; one level."
        });
        schema
    }

    /// Dotted paths of every known key.
    pub fn keys() -> Vec<String> {
        check::all_paths(&Self::schema())
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Error::config(Issue::new(format!("{}:{line}", path.display()), "not valid UTF-8"))
    })
}

/// The file that the one at `own` extends.
fn extended(sources: &Sources, own: usize, path: &Path) -> Result<Option<PathBuf>> {
    let tree = sources.parse_file(own).map_err(Error::config)?;
    let Some(value) = tree.get("extends") else {
        return Ok(None);
    };
    match value.get_ref() {
        DeValue::String(file) => Ok(Some(path.parent().unwrap_or(Path::new("")).join(file.as_ref()))),
        _ => {
            let at = sources.locate(value.span().start);
            Err(Error::config(Issue::new(
                at,
                "`extends` must be a string, the path of a file",
            )))
        }
    }
}

fn merged<'s>(sources: &'s Sources, own: usize, base: Option<usize>, sets: &[usize]) -> Result<Tree<'s>> {
    let mut tree = match base {
        Some(base) => sources.parse_file(base).map_err(Error::config)?,
        None => Tree::new(),
    };
    if let Some((key, _)) = tree.get_key_value("extends") {
        let at = sources.locate(key.span().start);
        let message = "a file that is extended cannot itself extend another: `extends` goes one level";
        return Err(Error::config(Issue::new(at, message)));
    }
    let mut top = sources.parse_file(own).map_err(Error::config)?;
    top.remove("extends");
    lay(&mut tree, top, WHOLE);
    let mut typed = Tree::new();
    for set in sets {
        let set = sources.parse_set(*set).map_err(Error::config)?;
        source::merge(&mut typed, set, &[]);
    }
    lay(&mut tree, typed, &[]);
    Ok(tree)
}

/// Lays `over` on `tree`, whose keys give way to what excludes them. Another method, or another objective, displaces the whole
/// section of the one before, and the learning rate that was chosen for it; another strategy the options of the one before.
fn lay<'s>(tree: &mut Tree<'s>, over: Tree<'s>, whole: &[&str]) {
    for (section, tag, default) in TAGGED {
        let before = source::text(tree, tag).unwrap_or(default);
        let switches = source::text(&over, tag).is_some_and(|new| new != before);
        if switches && source::holds(tree, section) {
            source::remove(tree, section);
            source::remove(tree, "optim.lr");
        }
    }
    let strategy = |tree: &Tree<'s>| source::text(tree, "continual.strategy").map(str::to_owned);
    if let Some(new) = strategy(&over)
        && strategy(tree) != Some(new)
    {
        source::keep_only(tree, "continual", &continual::OWN);
    }
    for (_, displaced) in DISPLACES.iter().filter(|(typed, _)| source::holds(&over, typed)) {
        source::remove(tree, displaced);
    }
    source::merge(tree, over, whole);
}

/// `train.out` is `runs/<name of the file>` where nothing else is said.
fn with_out<'t>(mut tree: Tree<'t>, path: &Path) -> Tree<'t> {
    let stem = path.file_stem().map_or("run".into(), |s| s.to_string_lossy());
    let out = DeValue::String(format!("runs/{stem}").into());
    let key = |name: &'static str| Spanned::new(0..0, name.into());
    if !tree.contains_key("train") {
        tree.insert(key("train"), Spanned::new(0..0, DeValue::Table(Tree::new())));
    }
    if let Some(DeValue::Table(train)) = tree.get_mut("train").map(Spanned::get_mut)
        && !train.contains_key("out")
    {
        train.insert(key("out"), Spanned::new(0..0, out));
    }
    tree
}

/// `optim` with the method's learning rate, scaled as the optimizer's own default is to AdamW's, and by the objective's factor.
fn with_lr_of(peft: &PeftSection, optim: &OptimConfig, factor: f64) -> Option<OptimConfig> {
    let method = match peft {
        PeftSection::Method(config) => config.clone(),
        PeftSection::From(from) => ft_peft::adapter::read_config(&from.from).ok()?,
    };
    let lr = method.method().learning_rate() * (optim.lr() / OptimConfig::default().lr()) * factor;
    let mut table = toml::Table::try_from(optim).ok()?;
    table.insert("lr".into(), lr.into());
    OptimConfig::deserialize(table).ok()
}

fn from_tree(mut tree: Tree, sources: &Sources) -> Result<RunConfig> {
    let issues = check::against_schema(&tree, &RunConfig::schema(), sources);
    if !issues.is_empty() {
        return Err(Error::Config(issues));
    }
    paths::make_absolute(&mut tree, sources);
    let spans = source::spans(&tree);
    let root = Spanned::new(0..0, tree);
    let config = RunConfig::deserialize(toml::Deserializer::from(root)).map_err(|e| {
        let (at, key) = place(&e, &spans, sources);
        let message = missing(e.message(), &key);
        Error::config(Issue::new(at, message))
    })?;
    if config.task.is_empty() && config.data.train.is_empty() {
        let message = "`data.train` is missing: a file of examples, or several in [[task]] tables";
        return Err(Error::config(Issue::new("", message)));
    }
    Ok(config)
}

/// Where serde stopped: the location, and the innermost key around it.
fn place(e: &toml::de::Error, spans: &[(String, std::ops::Range<usize>)], sources: &Sources) -> (String, String) {
    let Some(span) = e.span().filter(|s| !s.is_empty()) else {
        return (String::new(), String::new());
    };
    let around = spans.iter().filter(|(_, s)| s.start <= span.start && span.end <= s.end);
    let inner = around
        .min_by_key(|(_, s)| s.len())
        .map_or(String::new(), |(path, _)| path.clone());
    (sources.locate(span.start), inner)
}

fn missing(message: &str, key: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    match message
        .strip_prefix("missing field `")
        .and_then(|m| m.strip_suffix('`'))
    {
        Some(field) if key.is_empty() => format!("section [{field}] is missing"),
        Some(field) => format!("`{}` is missing", source::join(key, field)),
        None if key.is_empty() => message.to_owned(),
        None => format!("`{key}`: {message}"),
    }
}
