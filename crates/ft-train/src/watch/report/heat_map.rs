//! R as a heat map: every task's loss after every task, and what is read off it.

use super::chart::escape;
use crate::continual::Next;
use crate::continual::scores::ContinualScores;

/// Nothing for a run without `[continual]`.
pub(super) fn heat_map(scores: Option<&ContinualScores>) -> String {
    let Some(scores) = scores else { return String::new() };
    let start = scores.start.iter().map(|row| ("before the first step".to_owned(), row));
    let ended = scores.tasks.iter().zip(&scores.matrix);
    let rows: Vec<_> = start
        .chain(ended.map(|(name, row)| (format!("after {name}"), row)))
        .collect();
    let cell = |column: usize, loss: f64| {
        let all = rows.iter().filter_map(|(_, row)| row.get(column).copied());
        let (least, most) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        let share = if most > least {
            (loss - least) / (most - least)
        } else {
            0.0
        };
        // Blue is little loss, orange much; a shade by how far it is from the middle.
        let colour = if share < 0.5 { "47,111,222" } else { "217,130,43" };
        let shade = (share - 0.5).abs();
        format!("<td class=\"n\" style=\"background:rgba({colour},{shade:.2})\">{loss:.4}</td>")
    };
    let row = |(name, row): &(String, &Vec<f64>)| {
        let cells = row.iter().enumerate().map(|(column, loss)| cell(column, *loss));
        format!("<tr><th>{}</th>{}</tr>", escape(name), cells.collect::<String>())
    };
    let head = scores.tasks.iter().map(|name| format!("<th>{}</th>", escape(name)));
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
        "<h2>Tasks one after the other: {}{between}</h2><table><tr><th>loss of</th>{}</tr>{}</table>\n<p class=\"soft\">{}</p>{note}",
        escape(&scores.strategy),
        head.collect::<String>(),
        rows.iter().map(row).collect::<String>(),
        figures.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::continual::scores::BeforeAndAfter;

    #[test]
    fn the_worst_of_a_column_is_orange_and_the_best_blue() {
        let matrix = vec![vec![1.0, 4.0], vec![3.0, 2.0]];
        let scores = ContinualScores::new("ewc", &["a<b", "b"], matrix, None, BeforeAndAfter::default());
        let text = heat_map(Some(&scores));
        assert!(text.contains("rgba(47,111,222,0.50)\">1.0000") && text.contains("rgba(217,130,43,0.50)\">3.0000"));
        assert!(
            text.contains("a&lt;b") && text.contains("BWT 2.0000") && !text.contains("FWT"),
            "{text}"
        );
        assert_eq!(heat_map(None), "");
    }
}
