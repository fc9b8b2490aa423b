//! What people see of a run: metrics, the terminal, TensorBoard, sample completions, the outcome and its report.

pub(crate) mod completions;
pub(crate) mod history;
pub(crate) mod metrics;
pub(crate) mod outcome;
pub(crate) mod renderer;
pub(crate) mod report;
pub(crate) mod run_log;
pub(crate) mod speakers;
pub(crate) mod stop;
pub(crate) mod task_metrics;
pub(crate) mod tensorboard;

pub use completions::{SampleCompletion, Shown};
pub use history::read_metrics;
pub use outcome::{BeforeAfter, BestStep, Ending, Outcome, Score};
pub use renderer::{ProgressRenderer, Style};
pub use report::heat_maps;
