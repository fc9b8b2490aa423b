//! Metrics of a model on data: how likely it finds the right answers, and how right the answers are that it gives.
//!
//! ```text
//!  samples ─▶ batches ─▶ evaluate ─▶ Evaluation { nll_sum, tokens, samples } ─▶ loss, perplexity ─┐
//!     └─▶ prompts ─▶ ft_infer::generate ─▶ Answer { hypothesis, references } ─▶ exact_match, ... ─┴─▶ Report (JSON)
//!                    a file of predictions ─▶ read_predictions ─┘
//!  labelled samples ─▶ head_outputs ─▶ HeadAnswers { outputs, labels } ─▶ accuracy, macro_f1, matthews, pearson, spearman
//!  read_questions ─▶ choose ─▶ Choice { log_likelihoods, .. } ─▶ acc, acc_norm
//! ```
//!
//! ```
//! use ft_eval::{Settings, find, read_predictions, score};
//!
//! let answers = read_predictions(br#"
//!     {"prediction": "The Mill is a pub.", "references": ["The  Mill is a pub."]}
//!     {"prediction": "no", "references": ["yes", "sure"]}
//! "#)?;
//! let scores = score(&[find("exact_match")?, find("bleu")?], &answers, &Settings::default());
//! assert_eq!(scores.values["exact_match"], 0.5);
//! assert_eq!(scores.signatures["bleu"], "nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0");
//! # Ok::<(), ft_eval::Error>(())
//! ```

mod answer;
mod answers;
mod choices;
mod correlation;
mod error;
mod evaluation;
mod heads;
mod jsonl;
pub mod metrics;
mod questions;
mod report;
mod settings;
mod text;

pub use answer::{Answer, read_predictions};
pub use answers::{answers, answers_of};
pub use choices::{Choice, choose};
pub use error::{Error, Result, SampleProblem};
pub use evaluation::{Evaluation, Likelihood, batches, check, evaluate};
pub use heads::{HeadAnswers, HeadReport, head_loss, head_outputs, head_report};
pub use metrics::{Compute, Metric, Scores, find, score, score_choices};
pub use questions::{Question, read_questions};
pub use report::{EvalConfig, Report, report};
pub use settings::{Settings, Smoothing};
pub use text::BleuTokenizer;
