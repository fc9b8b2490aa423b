//! Metrics of a model on data: how likely it finds the right answers, and how right the answers are that it gives.
//!
//! ```text
//!  samples ─▶ batches ─▶ evaluate ─▶ Evaluation { nll_sum, tokens, samples } ─▶ loss, perplexity ─┐
//!     └─▶ prompts ─▶ ft_infer::generate ─▶ Answer { hypothesis, references } ─▶ exact_match, ... ─┴─▶ Report (JSON)
//! ```
//!
//! ```
//! use ft_eval::{Answer, Compute, find};
//!
//! let answers = [
//!     Answer { hypothesis: "The Mill is a pub.".into(), references: vec!["The  Mill is a pub.".into()] },
//!     Answer { hypothesis: "no".into(), references: vec!["yes".into(), "sure".into()] },
//! ];
//! let Compute::Answers(exact_match) = find("exact_match")?.compute else { unreachable!() };
//! assert_eq!(exact_match(&answers), 0.5);
//! # Ok::<(), ft_eval::Error>(())
//! ```

mod answers;
mod error;
mod evaluation;
pub mod metrics;
mod report;

pub use answers::answers;
pub use error::{Error, Result, SampleProblem};
pub use evaluation::{Evaluation, batches, check, evaluate};
pub use metrics::{Answer, Compute, Metric, find};
pub use report::{EvalConfig, Report, report};
