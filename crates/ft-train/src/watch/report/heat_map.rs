//! R as a heat map: every task's loss after every task, as SVG that needs nothing around it and reads on light and dark pages.

use std::collections::BTreeMap;

use super::chart::escape;
use crate::continual::Next;
use crate::continual::scores::ContinualScores;

const LABEL: f64 = 118.0;
const CELL: (f64, f64) = (72.0, 24.0);
const TITLE: f64 = 26.0;
const HEAD: f64 = 20.0;
const GAP: f64 = 20.0;

/// What stands on the page has the page's ink; cells are light, and what stands in them is dark.
const STYLE: &str = "<style>.hm{font:12px system-ui,sans-serif}.hm text{fill:#1b1b1f;font:12px system-ui,sans-serif}.hm .out{fill:#57575f}\
    .hm .title{font-weight:600;fill:#1b1b1f}@media (prefers-color-scheme: dark){.hm .out{fill:#a9a9b6}.hm .title{fill:#e8e8ee}}</style>";

/// Least and most loss of a task.
type Range = (f64, f64);

/// A heat map for each of the runs, `columns` of them side by side, each under its title. A task has one scale in all of them: blue is little
/// loss, orange much.
pub fn heat_maps(runs: &[(String, &ContinualScores)], columns: usize) -> String {
    let mut scales: BTreeMap<&str, Range> = BTreeMap::new();
    for (_, scores) in runs {
        for (_, row) in rows(scores) {
            for (task, loss) in scores.tasks.iter().zip(row) {
                let scale = scales.entry(task).or_insert((f64::INFINITY, f64::NEG_INFINITY));
                *scale = (scale.0.min(*loss), scale.1.max(*loss));
            }
        }
    }
    let tasks = runs.iter().map(|(_, scores)| scores.tasks.len()).max().unwrap_or(0);
    let deepest = runs.iter().map(|(_, scores)| rows(scores).len()).max().unwrap_or(0);
    let width = LABEL + CELL.0 * tasks as f64;
    let height = TITLE + HEAD + CELL.1 * deepest as f64;
    let columns = columns.clamp(1, runs.len().max(1));
    let place = |i: usize| {
        (
            (i % columns) as f64 * (width + GAP),
            (i / columns) as f64 * (height + GAP),
        )
    };
    let panels = runs.iter().enumerate().map(|(i, (title, scores))| {
        let (x, y) = place(i);
        format!(
            "<g transform=\"translate({x},{y})\">{}</g>",
            panel(title, scores, &scales)
        )
    });
    let (across, down) = (
        columns as f64 * (width + GAP) - GAP,
        runs.len().div_ceil(columns) as f64 * (height + GAP) - GAP,
    );
    format!(
        "<svg class=\"hm\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {across} {down}\" width=\"{across}\" height=\"{down}\" role=\"img\" \
         aria-label=\"Loss of every task after every task\">{STYLE}{}</svg>",
        panels.collect::<String>()
    )
}

/// The rows of a heat map with their names.
fn rows(scores: &ContinualScores) -> Vec<(String, &Vec<f64>)> {
    let start = scores.start.iter().map(|row| ("before".to_owned(), row));
    let ended = scores.tasks.iter().zip(&scores.matrix);
    start
        .chain(ended.map(|(name, row)| (format!("after {name}"), row)))
        .collect()
}

fn panel(title: &str, scores: &ContinualScores, scales: &BTreeMap<&str, Range>) -> String {
    let mut out = format!("<text class=\"title\" x=\"0\" y=\"15\">{}</text>", escape(title));
    let right = |column: usize| LABEL + CELL.0 * column as f64;
    for (column, task) in scores.tasks.iter().enumerate() {
        let x = right(column) + CELL.0 / 2.0;
        out += &format!(
            "<text class=\"out\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            TITLE + HEAD - 6.0,
            escape(task)
        );
    }
    for (i, (name, row)) in rows(scores).into_iter().enumerate() {
        let y = TITLE + HEAD + CELL.1 * i as f64;
        let base = y + CELL.1 / 2.0 + 4.0;
        out += &format!(
            "<text class=\"out\" x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>",
            LABEL - 8.0,
            escape(&name)
        );
        for (column, (task, loss)) in scores.tasks.iter().zip(row).enumerate() {
            let (x, width, height) = (right(column), CELL.0 - 2.0, CELL.1 - 2.0);
            let fill = colour(*loss, scales[task.as_str()]);
            out +=
                &format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"3\" fill=\"{fill}\"/>");
            out += &format!(
                "<text x=\"{}\" y=\"{base}\" text-anchor=\"middle\">{loss:.3}</text>",
                x + width / 2.0
            );
        }
    }
    out
}

const LEAST: [f64; 3] = [122.0, 168.0, 242.0];
const MIDDLE: [f64; 3] = [240.0, 240.0, 240.0];
const MOST: [f64; 3] = [246.0, 170.0, 92.0];

fn colour(loss: f64, (least, most): Range) -> String {
    let share = if most > least {
        (loss - least) / (most - least)
    } else {
        0.0
    };
    let (from, to, part) = match share {
        share if share < 0.5 => (LEAST, MIDDLE, 2.0 * share),
        share => (MIDDLE, MOST, 2.0 * share - 1.0),
    };
    // A loss that is no number is as bad as can be.
    let part = if part.is_finite() { part } else { 1.0 };
    let channel = |i: usize| (from[i] + part * (to[i] - from[i])).round() as u8;
    format!("#{:02x}{:02x}{:02x}", channel(0), channel(1), channel(2))
}

/// Nothing for a run without `[continual]`.
pub(super) fn section(scores: Option<&ContinualScores>) -> String {
    let Some(scores) = scores else { return String::new() };
    let figures = [
        ("ACC", scores.acc),
        ("BWT", scores.bwt),
        ("FWT", scores.fwt),
        ("forgetting", scores.forgetting),
        ("perplexity of general text before", scores.general.before),
        ("after", scores.general.after),
    ];
    let figures = figures
        .iter()
        .filter_map(|(name, value)| Some(format!("{name} {:.4}", (*value)?)));
    let note = scores
        .note()
        .map_or(String::new(), |note| format!("<p class=\"soft\">{}</p>", escape(note)));
    let between = match scores.between_tasks == Next::Continue.name() {
        true => String::new(),
        false => format!(", adapters: {}", escape(&scores.between_tasks)),
    };
    format!(
        "<h2>Tasks one after the other: {}{between}</h2><div style=\"max-width:40rem\">{}</div>\n<p class=\"soft\">{}</p>{note}",
        escape(&scores.strategy),
        heat_maps(&[("loss of".to_owned(), scores)], 1),
        figures.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::continual::scores::BeforeAndAfter;

    fn scores(tasks: &[&str; 2], matrix: [[f64; 2]; 2]) -> ContinualScores {
        let matrix = matrix.map(|row| row.to_vec()).to_vec();
        ContinualScores::new("ewc", tasks, matrix, None, BeforeAndAfter::default())
    }

    #[test]
    fn the_worst_of_a_task_is_orange_and_the_best_blue() {
        let one = scores(&["a<b", "b"], [[1.0, 4.0], [3.0, 2.0]]);
        let text = section(Some(&one));
        let cell = |fill: &str, loss: &str| {
            let at = text.find(&format!(">{loss}<")).unwrap_or_else(|| panic!("{text}"));
            assert!(
                text[..at].rsplit("fill=\"").next().unwrap().starts_with(fill),
                "{loss}: {text}"
            );
        };
        cell("#7aa8f2", "1.000");
        cell("#f6aa5c", "3.000");
        assert!(
            text.contains("a&lt;b") && text.contains("BWT 2.0000") && !text.contains("FWT"),
            "{text}"
        );
        assert_eq!(section(None), "");
    }

    /// Of several runs, in whatever order their tasks come.
    #[test]
    fn a_task_has_one_scale_in_all_maps() {
        let (one, two) = (
            scores(&["a", "b"], [[1.0, 2.0], [2.0, 2.0]]),
            scores(&["b", "a"], [[2.0, 3.0], [2.0, f64::NAN]]),
        );
        let text = heat_maps(&[("one".into(), &one), ("two".into(), &two)], 2);
        // In the middle between 1 and 3.
        assert!(
            text.contains("fill=\"#f0f0f0\"") && text.contains("translate(282,0)"),
            "{text}"
        );
        assert!(text.contains(">NaN<") && text.matches("<g ").count() == 2);
    }
}
