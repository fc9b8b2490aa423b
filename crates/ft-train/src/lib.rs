//! From a run configuration to a finished run: plan, fit, checkpoint, resume, report.
//!
//! ```text
//! RunConfig (typed) ─Plan::resolve─> Plan (meant) ─fit─> run folder
//!   extends, --set     opens files,     owns the data,     config.toml, metrics.jsonl, checkpoints/,
//!                      counts, refuses  no step taken      final/, report.html, report.json
//! ```
//!
//! ```
//! use ft_train::RunConfig;
//!
//! let text = "[model]\npath = 'base'\n[data]\ntrain = 'train.jsonl'\n[optim]\nlr = 1e-3\n";
//! let config = RunConfig::parse("run.toml".as_ref(), text.into(), &["train.steps=20".into()])?;
//! assert_eq!((config.train.steps, config.optim.lr()), (Some(20), 1e-3));
//!
//! let wrong = RunConfig::parse("run.toml".as_ref(), text.replace("lr", "learn_rate"), &[]).unwrap_err();
//! assert!(wrong.to_string().starts_with("run.toml:6:1: unknown key `optim.learn_rate`"), "{wrong}");
//! # Ok::<(), ft_train::Error>(())
//! ```

pub mod advise;
mod batches;
pub mod checkpoint;
pub mod config;
pub mod continual;
mod engine;
mod error;
pub mod memory;
pub mod objectives;
pub mod plan;
pub mod tasks;
mod watch;

pub use batches::{Batches, MicroBatch, Packing, Padding, StepBatch, Totals};
pub use config::{Issue, Provenance, RunConfig};
pub use engine::{
    ActivationPolicy, Complete, Event, FitOptions, MethodHook, Named, Piece, Progress, Resume, Together, TrainModel,
    fit, fit_on, write_teacher_answers, write_teacher_cache,
};
pub use error::{Error, Result};
pub use ft_ranks::Ranks;
pub use plan::{DeviceTraits, Disk, Plan, PlanSummary, labels, labels_of};
pub use watch::{
    BeforeAfter, BestStep, Ending, Outcome, ProgressRenderer, SampleCompletion, Score, Shown, Style, heat_maps,
    read_metrics,
};
