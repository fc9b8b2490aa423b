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

mod after_backward;
mod answers;
mod backward;
pub mod checkpoint;
mod clock;
pub mod config;
mod disk;
mod error;
mod feed;
mod fit;
mod gradients;
mod guard;
mod history;
mod in_backward;
mod lock;
pub mod memory;
mod metrics;
mod model;
mod outcome;
pub mod plan;
mod regime;
mod renderer;
mod report;
mod resume;
mod room;
mod save;
mod scaling;
mod session;
mod strategy;
mod tensorboard;

pub use answers::{SampleAnswer, Shown};
pub use backward::{Keeping, Piece, backward_through, loss_gradients, nll_gradients, nll_sum};
pub use config::{Issue, Provenance, RunConfig};
pub use disk::Disk;
pub use error::{Error, Result};
pub use fit::{Event, FitOptions, Progress, fit};
pub use history::read_metrics;
pub use in_backward::Complete;
pub use model::TrainModel;
pub use outcome::{BeforeAfter, BestStep, Outcome, Score};
pub use plan::{Plan, PlanSummary};
pub use renderer::{ProgressRenderer, Style};
pub use resume::Resume;
pub use session::Ending;
