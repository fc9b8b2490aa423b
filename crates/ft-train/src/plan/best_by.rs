//! What the best evaluation may go by: losses and metrics by the names that they have in the log.

use crate::config::RunConfig;
use crate::config::tasks::RESERVED;

/// Whether what the best evaluation goes by is there.
pub(super) fn refusal(config: &RunConfig) -> Option<String> {
    let (typed, tasks) = (config.train.best_by.as_str(), &config.task);
    if typed == RESERVED[0] || (!tasks.is_empty() && typed == RESERVED[1]) || tasks.iter().any(|t| t.name == typed) {
        return None;
    }
    let metrics = metrics_of_tasks(config);
    if metrics.iter().any(|name| name == typed) {
        return None;
    }
    let names: Vec<&str> = RESERVED
        .into_iter()
        .chain(tasks.iter().map(|t| t.name.as_str()))
        .chain(metrics.iter().map(String::as_str))
        .collect();
    Some(match tasks.is_empty() {
        true => format!("train.best_by: \"{typed}\" needs [[task]] tables; leave it out"),
        false => format!(
            "train.best_by: no task and no metric of one \"{typed}\"; one of \"{}\"",
            names.join("\", \"")
        ),
    })
}

/// The metrics of tasks by the names that they have in the log.
fn metrics_of_tasks(config: &RunConfig) -> Vec<String> {
    let mut names = Vec::new();
    for task in &config.task {
        let metrics = task.metrics.iter().filter_map(|name| ft_eval::find(name).ok());
        for metric in metrics.filter(|metric| metric.needs_answers()) {
            names.push(format!("{}/{}", metric.name, task.name));
            names.extend(crate::tasks::pooled(metric.name));
        }
    }
    names.sort();
    names.dedup();
    names
}
