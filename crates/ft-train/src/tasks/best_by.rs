//! What the best evaluation goes by: `train.best_by`.

use super::Tasks;
use crate::checkpoint::Evaluation;
use crate::config::tasks::RESERVED;

/// The number that is to become small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BestBy {
    /// The mean over all held-out units.
    #[default]
    Micro,
    /// The mean of the tasks' means.
    Macro,
    /// The mean of one task.
    Task(usize),
    /// A metric of answers by its name in the log: as large as can be.
    Metric(String),
}

/// The names of a metric over all tasks that have it: of all their answers, and the mean over the tasks.
pub fn pooled(metric: &str) -> [String; 2] {
    RESERVED.map(|all| format!("{metric}_{all}"))
}

impl BestBy {
    /// What is typed, which was checked before.
    pub fn of(typed: &str, tasks: &Tasks) -> Self {
        match tasks.names().iter().position(|name| *name == typed) {
            Some(task) => Self::Task(task),
            None if typed == RESERVED[0] => Self::Micro,
            None if typed == RESERVED[1] => Self::Macro,
            None => Self::Metric(typed.to_owned()),
        }
    }

    /// The number of an evaluation. One without the metric is no better than any other.
    pub fn score(&self, evaluation: &Evaluation) -> f64 {
        let of_tasks = match self {
            Self::Metric(name) => return evaluation.metrics.get(name).map_or(f64::NAN, |value| -value.0),
            Self::Micro => None,
            Self::Macro => evaluation.macro_loss(),
            Self::Task(task) => evaluation.tasks.get(*task).map(|loss| loss.0),
        };
        of_tasks.unwrap_or(evaluation.loss.0)
    }
}

impl Evaluation {
    /// The mean of the tasks' means, where there are tasks.
    pub fn macro_loss(&self) -> Option<f64> {
        let sum: f64 = self.tasks.iter().map(|loss| loss.0).sum();
        (!self.tasks.is_empty()).then(|| sum / self.tasks.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Exact;
    use crate::tasks::Task;

    #[test]
    fn the_best_goes_by_all_units_by_all_tasks_or_by_one() {
        let task = |name: &str| Task {
            name: name.into(),
            train: 0..1,
            valid: 0..1,
            loss_weight: 1.0,
        };
        let tasks = Tasks(vec![task("a"), task("b")]);
        let evaluation = Evaluation {
            loss: Exact(1.0),
            nll: None,
            tasks: vec![Exact(0.5), Exact(3.5)],
            metrics: [("bleu_micro".to_owned(), Exact(30.0))].into(),
        };
        let score = |typed: &str| BestBy::of(typed, &tasks).score(&evaluation);
        assert_eq!(
            ["micro", "macro", "a", "b", "bleu_micro"].map(score),
            [1.0, 2.0, 0.5, 3.5, -30.0]
        );
    }
}
