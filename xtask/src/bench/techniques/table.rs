//! The table in Markdown.

use std::fmt::Write;

use super::rows::{Results, Row, Spread};
use super::trial::number;

/// The heading of the columns that follow.
pub const HEAD: [&str; 19] = [
    "technique",
    "quality",
    "held-out loss",
    "trainable",
    "file",
    "peak memory",
    "planned",
    "tokens/s",
    "x LoRA",
    "seconds",
    "forgotten",
    "merge error",
    "generation/s",
    "merged",
    "exported",
    "learning rate",
    "x PEFT's speed",
    "of PEFT's memory",
    "PEFT's quality",
];

/// All columns, and below them what they mean.
pub fn whole(results: &Results) -> String {
    let mut text = format!("| {} |\n|{}\n", HEAD.join(" | "), "---|".repeat(HEAD.len()));
    for row in &results.rows {
        let _ = writeln!(text, "| {} |", cells(row, results).join(" | "));
    }
    text + "\n" + &legend(results)
}

/// What a reader chooses by; beside torch + PEFT where that was measured.
pub fn short(results: &Results) -> String {
    let metric = results.metric().replace('_', " ");
    let mut columns = vec![
        (0, "technique"),
        (1, metric.as_str()),
        (2, "held-out loss"),
        (3, "trainable"),
        (4, "file"),
        (5, "peak memory"),
        (8, "tokens/s, LoRA = 1"),
        (10, "forgotten"),
    ];
    if results.rows.iter().any(|row| row.beside.is_some()) {
        columns.extend([16, 17, 18].map(|at| (at, HEAD[at])));
    }
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(columns.iter().map(|(_, head)| *head).collect());
    let _ = writeln!(text, "|{}", "---|".repeat(columns.len()));
    for row in &results.rows {
        let cells = cells(row, results);
        text += &line(columns.iter().map(|(at, _)| cells[*at].as_str()).collect());
    }
    text
}

/// One row, in the order of [`HEAD`].
pub fn cells(row: &Row, results: &Results) -> [String; 19] {
    let lora = results.rows.iter().find(|row| row.name == "lora");
    let share = lora.and_then(|lora| Some(row.tokens_per_s? / lora.tokens_per_s?));
    let rounded = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.0}"));
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let mark = if row.front { " ◆" } else { "" };
    [
        format!("{}{mark}", row.about),
        dash(row.quality.map(|quality| measure(results.metric(), quality, row.seeds))),
        spread(row.loss, row.seeds, 3),
        format!(
            "{:.0} ({:.2} %)",
            row.trainable,
            100.0 * row.trainable / number(&results.base, "parameters")
        ),
        bytes(row.file_bytes),
        bytes(row.peak),
        bytes(row.planned),
        rounded(row.tokens_per_s),
        dash(share.map(|share| format!("{share:.2}"))),
        dash(row.seconds.map(|seconds| format!("{seconds:.1}"))),
        dash(row.forgotten.map(|nats| format!("{nats:+.2}"))),
        dash(row.merge_error.map(|error| format!("{error:.0e}"))),
        rounded(row.generated_per_s),
        rounded(row.merged_per_s),
        dash(row.merged_bytes.map(bytes)),
        format!("{:.1e}", row.lr),
        dash(row.beside.map(|beside| format!("{:.2}", beside.speed))),
        dash(row.beside.map(|beside| format!("{:.2}", beside.memory))),
        dash(
            row.beside
                .map(|beside| measure(results.metric(), Spread::one(beside.quality), 1)),
        ),
    ]
}

/// Under which conditions, what the columns are, and what is missing.
pub fn legend(results: &Results) -> String {
    let said = |key: &str| match results.conditions.get(key) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "-".into(),
    };
    let (scale, unit) = scale(results.metric());
    let mut text = format!(
        "`{}`, {} steps with {} seeds; learning rates searched with {} steps until the best has a worse one on either side. {}, commit {}, {}.\n\n\
         Quality is `{}`, before training {:.1}{}; the loss before is {:.3}. ± is the standard deviation over seeds. ◆: no other technique is at least as good in \
         less memory. Forgotten: loss on general text less the base's, nats per token. Merge error: largest difference of a logit between the base with its \
         adapter and the merged weights, in f32, on the dense base. Generation: one stream, tokens per second, with the adapter on and merged. Exported: the merged checkpoint. PEFT: the first seed's run made again by torch + PEFT \
         with the same batches, start and learning rates, right after ours; its result scored by ft.\n",
        said("config"),
        said("steps"),
        said("seeds"),
        said("search_steps"),
        said("machine"),
        said("commit"),
        said("date"),
        results.metric(),
        scale * number(&results.base, results.metric()),
        unit,
        number(&results.base, "loss"),
    );
    for (name, why) in &results.left_out {
        let _ = write!(text, "\nLeft out: {name} ({why}).\n");
    }
    text
}

/// A metric as people write it: shares in percent, scores as they are.
fn measure(metric: &str, of: Spread, seeds: usize) -> String {
    let (scale, unit) = scale(metric);
    let scaled = Spread {
        mean: scale * of.mean,
        deviation: scale * of.deviation,
    };
    format!("{}{unit}", spread(scaled, seeds, 1))
}

/// What a metric is multiplied with to be shown, and its unit.
pub fn scale(metric: &str) -> (f64, &'static str) {
    match metric {
        "bleu" | "sentence_bleu" | "chrf" | "chrf++" | "nist" | "cider" | "loss" => (1.0, ""),
        _ => (100.0, " %"),
    }
}

fn spread(of: Spread, seeds: usize, digits: usize) -> String {
    match seeds {
        1 => format!("{:.digits$}", of.mean),
        _ => format!("{:.digits$} ± {:.digits$}", of.mean, of.deviation),
    }
}

pub fn bytes(count: f64) -> String {
    match count {
        n if n < 1e6 => format!("{:.0} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.2} GB", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::parse;
    use super::super::rows::tests::LINES;
    use super::*;

    #[test]
    fn a_row_says_what_was_measured() {
        let results = Results::of(&parse(LINES).unwrap()).unwrap();
        let text = whole(&results);
        assert!(
            text.contains("| LoRA on every projection ◆ | 70.0 ± 14.1 % | 0.600 ± 0.141 | 10 (1.00 %) | 2 kB | 1.0 MB | 1.1 MB | 75 | 1.00 | 1.3 | +0.25 | 1e-5 | 90 | 99 | 4 kB | 4.0e-3 | 1.50 | 0.25 | 75.0 % |"),
            "{text}"
        );
        assert!(text.contains("| full fine-tuning | 70.0 % | 0.500 |"), "{text}");
        assert!(text.contains("Left out: bitfit (no biases)."), "{text}");
        assert!(short(&results).contains("| exact match |") && short(&results).contains("| 1.50 | 0.25 | 75.0 % |"));
    }
}
