//! What a run over tasks comes to: R, and what is read off it.
//!
//! ```text
//! R[i][j]      score of task j after task i; b[j] before the first step
//! ACC          mean of the last row
//! BWT          mean over j < T of R[T][j] - R[j][j]
//! FWT          mean over j > 1 of R[j - 1][j] - b[j]
//! forgetting   mean over j < T of how much worse R[T][j] is than the best of the rows before
//! ```
//!
//! Lopez-Paz and Ranzato 2017, eq. 2 to 4; forgetting: Chaudhry et al. 2018, arXiv:1801.10112. The score is a loss: small is good, and
//! positive BWT, FWT and forgetting are all for the worse.

use serde::{Deserialize, Serialize};

use super::Next;

/// `continual.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContinualScores {
    /// The strategy.
    pub strategy: String,
    /// What became of the adapter between two tasks: it goes on, or is folded, frozen or put aside.
    #[serde(default = "goes_on")]
    pub between_tasks: String,
    /// Names of the tasks in their order.
    pub tasks: Vec<String>,
    /// What is scored: the mean of the objective's loss on the held-out samples.
    pub score: String,
    /// A row for every task that has ended.
    #[serde(rename = "R")]
    pub matrix: Vec<Vec<f64>>,
    /// The scores before the first step.
    pub start: Option<Vec<f64>>,
    /// Mean of the last row.
    pub acc: Option<f64>,
    /// Backward transfer.
    pub bwt: Option<f64>,
    /// Forward transfer.
    pub fwt: Option<f64>,
    /// Forgetting.
    pub forgetting: Option<f64>,
    /// Perplexity of general text, where `eval.general` names some.
    pub general: BeforeAndAfter,
}

fn goes_on() -> String {
    Next::Continue.name().into()
}

/// Before the first step, and after the last task that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BeforeAndAfter {
    /// Before the first step.
    pub before: Option<f64>,
    /// Now.
    pub after: Option<f64>,
}

impl ContinualScores {
    /// Its name in the run folder.
    pub const FILE: &str = "continual.json";

    /// What must be known to read the figures, where something must.
    pub fn note(&self) -> Option<&'static str> {
        (self.between_tasks == Next::Separate.name()).then_some(
            "every task is scored with its own adapter: BWT and forgetting are 0 by construction, general text is measured without one",
        )
    }

    /// From R, whose rows are as long as there are tasks.
    pub fn new(
        strategy: &str,
        tasks: &[&str],
        matrix: Vec<Vec<f64>>,
        start: Option<Vec<f64>>,
        general: BeforeAndAfter,
    ) -> Self {
        let last = matrix.last();
        let done = matrix.len();
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let past = 0..done.saturating_sub(1);
        let backward = last.map(|last| past.clone().map(|j| last[j] - matrix[j][j]).collect());
        let lost = last.map(|last| {
            let best = |j: usize| {
                matrix[..done - 1]
                    .iter()
                    .map(|row| row[j])
                    .fold(f64::INFINITY, f64::min)
            };
            past.clone().map(|j| last[j] - best(j)).collect()
        });
        let forward = start
            .as_ref()
            .map(|start| (1..done).map(|j| matrix[j - 1][j] - start[j]).collect());
        Self {
            strategy: strategy.to_owned(),
            between_tasks: goes_on(),
            tasks: tasks.iter().map(|name| name.to_string()).collect(),
            score: "loss".into(),
            acc: last.and_then(|last| mean(last.clone())),
            bwt: backward.and_then(mean),
            fwt: forward.and_then(mean),
            forgetting: lost.and_then(mean),
            start,
            general,
            matrix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_off_a_matrix() {
        let matrix = vec![vec![1.0, 4.0, 5.0], vec![0.5, 2.0, 4.5], vec![2.0, 3.0, 1.0]];
        let scores = ContinualScores::new(
            "sequential",
            &["a", "b", "c"],
            matrix.clone(),
            Some(vec![3.0, 3.0, 6.0]),
            BeforeAndAfter::default(),
        );
        assert_eq!(scores.acc, Some(2.0));
        assert_eq!(scores.bwt, Some(((2.0 - 1.0) + (3.0 - 2.0)) / 2.0));
        assert_eq!(scores.fwt, Some(((4.0 - 3.0) + (4.5 - 6.0)) / 2.0));
        assert_eq!(scores.forgetting, Some(((2.0 - 0.5) + (3.0 - 2.0)) / 2.0));
        let text = serde_json::to_value(&scores).unwrap();
        assert_eq!(text["R"], serde_json::json!(matrix));
        assert_eq!(text["general"]["before"], serde_json::Value::Null);
        let one = ContinualScores::new(
            "ewc",
            &["a", "b"],
            vec![vec![1.0, 2.0]],
            None,
            BeforeAndAfter::default(),
        );
        assert_eq!(
            (one.acc, one.bwt, one.fwt, one.forgetting),
            (Some(1.5), None, None, None)
        );
    }
}
