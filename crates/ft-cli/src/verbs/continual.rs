//! `ft continual`: what runs over tasks came to, side by side.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ft_train::continual::scores::ContinualScores;
use serde_json::json;

use crate::failure::{Context, Failure};
use crate::output;

/// Look at runs over tasks, one after the other
#[derive(clap::Args, Debug)]
pub struct Continual {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    Compare(Compare),
}

/// Set runs side by side: how well each knows the tasks at the end, and what it has forgotten
#[derive(clap::Args, Debug)]
struct Compare {
    /// Run folders, each with a continual.json
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Continual {
    pub fn run(self) -> Result<(), Failure> {
        let Action::Compare(Compare { runs, json: as_json }) = self.action;
        let found: Vec<ContinualScores> = runs.iter().map(|run| read(run)).collect::<Result<_, _>>()?;
        let first = &found[0];
        if let Some((run, other)) = runs.iter().zip(&found).find(|(_, scores)| scores.tasks != first.tasks) {
            return Err(Failure::wrong_use(format!(
                "{} learned the tasks {}, and {} the tasks {}: only runs over the same tasks in the same order compare",
                runs[0].display(),
                first.tasks.join(", "),
                run.display(),
                other.tasks.join(", ")
            )));
        }
        if as_json {
            let runs: Vec<_> = runs
                .iter()
                .zip(&found)
                .map(|(run, scores)| json!({ "run": run, "scores": scores }))
                .collect();
            return output::json(&json!({ "runs": runs }));
        }
        output::write(&compared(&runs, &found))
    }
}

fn read(run: &Path) -> Result<ContinualScores, Failure> {
    let path = run.join(ContinualScores::FILE);
    let text = std::fs::read_to_string(&path).context(format!(
        "{}: no run over tasks ([continual]) that has ended one",
        path.display()
    ))?;
    serde_json::from_str(&text).context(path.display())
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.4}"))
}

fn compared(runs: &[PathBuf], found: &[ContinualScores]) -> String {
    let head = [
        "run",
        "strategy",
        "ACC",
        "BWT",
        "FWT",
        "forgetting",
        "general before",
        "after",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows[0].extend(found[0].tasks.iter().cloned());
    for (run, scores) in runs.iter().zip(found) {
        let mut row = vec![output::path(run).to_string(), scores.strategy.clone()];
        let general = [scores.general.before, scores.general.after];
        let figures = [scores.acc, scores.bwt, scores.fwt, scores.forgetting];
        row.extend(figures.into_iter().chain(general).map(number));
        let last = scores.matrix.last().cloned().unwrap_or_default();
        row.extend((0..scores.tasks.len()).map(|task| number(last.get(task).copied())));
        rows.push(row);
    }
    let right: Vec<bool> = (0..rows[0].len()).map(|column| column > 1).collect();
    let mut notes: Vec<&str> = found.iter().filter_map(ContinualScores::note).collect();
    notes.dedup();
    let notes: String = notes.iter().map(|note| format!("adapters: {note}\n")).collect();
    output::table(&rows, &right)
        + "losses: small is good, and positive transfer and forgetting are for the worse\n"
        + &notes
}

/// R with what is read off it.
pub(super) fn matrix(scores: &ContinualScores) -> String {
    let mut rows = vec![vec![format!("{}, loss of", scores.strategy)]];
    rows[0].extend(scores.tasks.iter().cloned());
    let row = |name: String, losses: &[f64]| {
        let losses = losses.iter().map(|loss| number(Some(*loss)));
        std::iter::once(name).chain(losses).collect::<Vec<String>>()
    };
    rows.extend(scores.start.as_ref().map(|losses| row("before".into(), losses)));
    let ended = scores.matrix.iter().zip(&scores.tasks);
    rows.extend(ended.map(|(losses, name)| row(format!("after {name}"), losses)));
    let right: Vec<bool> = (0..rows[0].len()).map(|column| column > 0).collect();
    let figures = [
        ("ACC", scores.acc),
        ("BWT", scores.bwt),
        ("FWT", scores.fwt),
        ("forgetting", scores.forgetting),
        ("general perplexity before", scores.general.before),
        ("after", scores.general.after),
    ];
    let figures = figures.iter().filter(|(_, value)| value.is_some());
    let figures: Vec<String> = figures
        .map(|(name, value)| format!("{name} {}", number(*value)))
        .collect();
    let note = scores.note().map_or(String::new(), |note| format!("{note}\n"));
    output::table(&rows, &right) + &figures.join(", ") + "\n" + &note
}

#[cfg(test)]
mod tests {
    use ft_train::continual::scores::BeforeAndAfter;

    use super::*;

    #[test]
    fn runs_stand_side_by_side() {
        let scores = |strategy: &str, lost: f64| {
            let matrix = vec![vec![1.0, 3.0], vec![1.0 + lost, 0.5]];
            ContinualScores::new(
                strategy,
                &["a", "b"],
                matrix,
                Some(vec![4.0, 4.0]),
                BeforeAndAfter::default(),
            )
        };
        let found = [scores("sequential", 2.0), scores("ewc", 0.25)];
        let text = compared(&["one".into(), "two".into()], &found);
        let line = |n: usize| {
            text.lines()
                .nth(n)
                .unwrap()
                .split_whitespace()
                .map(String::from)
                .collect::<Vec<_>>()
        };
        assert_eq!(line(1)[1..6], ["sequential", "1.7500", "2.0000", "-1.0000", "2.0000"]);
        assert_eq!(line(2)[1..6], ["ewc", "0.8750", "0.2500", "-1.0000", "0.2500"]);
        let text = matrix(&found[0]);
        assert!(text.contains("after b") && text.contains("BWT 2.0000"), "{text}");
    }
}
