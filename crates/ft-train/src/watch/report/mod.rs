//! `report.json` and `report.html`: what a run was and what came of it, in one file each, with nothing to load.

mod chart;
mod heat_map;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::plan::thousands;
use crate::watch::completions::CompletionsFile;
use crate::watch::history::read_metrics;
use crate::watch::outcome::{BeforeAfter, Outcome, Score};
use crate::watch::renderer::duration;
use crate::{Error, Plan, Result, checkpoint, memory};
use chart::{Chart, Series, escape};
pub use heat_map::heat_maps;

/// Writes both files; returns the path of the HTML one.
pub(crate) fn write(plan: &Plan, outcome: &Outcome) -> Result<PathBuf> {
    let out = plan.out();
    let metrics = read_metrics(&out.join("metrics.jsonl"));
    let json = json!({ "outcome": outcome, "plan": plan.summary(), "metrics": metrics });
    let path = out.join("report.json");
    let bytes = serde_json::to_vec_pretty(&json).map_err(|e| Error::Training(e.to_string()))?;
    checkpoint::write_file(&path, &bytes)?;
    let path = out.join("report.html");
    checkpoint::write_file(&path, html(plan, outcome, &metrics).as_bytes())?;
    Ok(path)
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #6b6b76; --rule: #d9d9e0; --back: #ffffff;
  --a: #2f6fde; --b: #d9822b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ee; --soft: #9a9aa8; --rule: #3a3a44; --back: #17171b;
  --a: #7aa7ff; --b: #f0a95a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem 1rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); } td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; font: 13px/1.45 ui-monospace, monospace; margin: 0; }
details { margin: .5rem 0; } .soft { color: var(--soft); } svg { width: 100%; height: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); column-gap: 2rem; } figure { margin: 0; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } .axis { stroke: var(--rule); }
.s0 { stroke: var(--a); } .s1 { stroke: var(--b); } .d0 { fill: var(--a); } .d1 { fill: var(--b); }
";

fn html(plan: &Plan, outcome: &Outcome, metrics: &[Value]) -> String {
    let name = plan.out().file_name().map_or("run".into(), |n| n.to_string_lossy());
    let body = [
        facts(plan, outcome),
        scores(outcome),
        heat_map::section(outcome.continual.as_ref()),
        charts(metrics),
        ranks(metrics),
        samples(&outcome.samples),
        progress(&read_metrics(&plan.out().join(CompletionsFile::NAME))),
        format!(
            "<h2>Settings</h2><details><summary>config.toml</summary><pre>{}</pre></details>",
            escape(&plan.config.to_toml(Some(&plan.provenance)))
        ),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{0}</title><style>{STYLE}</style></head>\n<body><h1>{0}</h1>\n{1}\n</body></html>\n",
        escape(&name),
        body.join("\n")
    )
}

fn facts(plan: &Plan, outcome: &Outcome) -> String {
    let summary = plan.summary();
    let share = 100.0 * summary.trainable as f64 / summary.parameters.max(1) as f64;
    let time = std::time::Duration::from_secs_f64(outcome.seconds.max(0.0));
    let rate = outcome.tokens as f64 / outcome.seconds.max(1e-9);
    let peak = memory::compared(outcome.peak_memory_bytes, outcome.planned_memory_bytes);
    let (parameters, trainable) = (thousands(summary.parameters), thousands(summary.trainable));
    let (samples, tokens) = (
        thousands(summary.data.train.samples),
        thousands(summary.data.train.tokens),
    );
    let base = plan.config.model.path.display();
    let rows = [
        ("base", format!("{base} ({}), {parameters} parameters", summary.model)),
        (
            "method",
            format!("{}, {trainable} trainable parameters ({share:.3} %)", summary.method),
        ),
        ("data", format!("{samples} samples, {tokens} tokens")),
        (
            "ran",
            format!(
                "{} of {} steps, {:.2} epochs, {:?}",
                outcome.steps, summary.steps.total, outcome.epochs, outcome.ending
            ),
        ),
        (
            "time",
            format!("{} on {}, {rate:.0} tokens/s", duration(time), summary.device),
        ),
        ("memory", peak),
        ("ran out", ran_out(plan, outcome)),
        ("made by", plan.provenance.to_string()),
    ];
    let rows = rows
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(k, v)| format!("<tr><th>{k}</th><td>{}</td></tr>", escape(v)));
    format!("<table>{}</table>", rows.collect::<String>())
}

/// What became of the micro-batch where memory ran out.
fn ran_out(plan: &Plan, outcome: &Outcome) -> String {
    let typed = plan.config.train.batch_size;
    let cut = |size: usize| format!("of memory with {typed} samples in a forward pass; {size} at the end");
    outcome.micro_batch.map_or(String::new(), cut)
}

fn scores(outcome: &Outcome) -> String {
    let (before, after) = (&outcome.before, &outcome.after);
    let Some(any) = after.as_ref().or(before.as_ref()) else {
        return String::new();
    };
    let cell = |score: &Option<Score>, pick: &dyn Fn(&Score) -> Option<f64>| {
        let value = score.as_ref().and_then(pick);
        format!(
            "<td class=\"n\">{}</td>",
            value.map_or("–".to_owned(), |v| format!("{v:.4}"))
        )
    };
    let row = |name: &str, pick: &dyn Fn(&Score) -> Option<f64>| {
        format!(
            "<tr><th>{}</th>{}{}</tr>",
            escape(name),
            cell(before, pick),
            cell(after, pick)
        )
    };
    let mut rows = row("loss", &|s| Some(s.loss)) + &row("perplexity", &|s| s.perplexity);
    for name in any.tasks.keys() {
        rows += &row(&format!("loss, {name}"), &|s| s.tasks.get(name).copied());
    }
    for name in any.metrics.keys() {
        rows += &row(name, &|s| s.metrics.get(name).copied());
    }
    format!("<h2>Held-out samples</h2><table><tr><th></th><th>before</th><th>after</th></tr>{rows}</table>")
}

fn charts(metrics: &[Value]) -> String {
    let points = |key: &str| -> Vec<(f64, f64)> {
        let point = |m: &Value| Some((m["step"].as_f64()?, m[key].as_f64()?));
        metrics
            .iter()
            .filter_map(point)
            .filter(|(_, y)| y.is_finite())
            .collect()
    };
    let charts = [
        Chart::new(
            "Loss",
            vec![
                Series::new("training", points("loss")),
                Series::new("held out", points("eval_loss")),
            ],
        ),
        Chart::single("Learning rate", points("lr")),
        Chart::single("Gradient norm before clipping", points("grad_norm")),
        Chart::single("Ranks left in all places", points("rank_total")),
        Chart::single("Tokens per second", points("tokens_per_s")).anchored(),
        Chart::single("Memory in MB", megabytes(points("memory_bytes"))).anchored(),
    ];
    let charts: String = charts.iter().filter_map(Chart::svg).collect();
    format!("<div class=\"charts\">{charts}</div>")
}

/// How many places have how many ranks left in the end.
fn ranks(metrics: &[Value]) -> String {
    let last = metrics.iter().rev().find_map(|m| m["rank_histogram"].as_object());
    let Some(histogram) = last else { return String::new() };
    let mut counts: Vec<(usize, &Value)> = histogram
        .iter()
        .filter_map(|(k, v)| Some((k.parse().ok()?, v)))
        .collect();
    counts.sort_by_key(|(rank, _)| *rank);
    let rows = counts
        .iter()
        .map(|(rank, places)| format!("<tr><td class=\"n\">{rank}</td><td class=\"n\">{places}</td></tr>"));
    let rows: String = rows.collect();
    format!("<h2>Ranks</h2><table><tr><th>rank</th><th>places</th></tr>{rows}</table>")
}

fn megabytes(bytes: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    bytes
        .into_iter()
        .map(|(step, bytes)| (step, bytes / f64::from(1 << 20)))
        .collect()
}

/// What was answered at every evaluation, prompt by prompt.
fn progress(lines: &[Value]) -> String {
    let answers = |index: usize| {
        let row = |line: &Value| {
            let answer = line["samples"][index]["answer"].as_str()?;
            Some(format!(
                "<tr><th>{}</th><td><pre>{}</pre></td></tr>",
                line["step"],
                escape(answer)
            ))
        };
        lines.iter().filter_map(row).collect::<String>()
    };
    let prompts = lines.iter().rev().find_map(|line| line["samples"].as_array());
    let tables = prompts.into_iter().flatten().enumerate().map(|(index, sample)| {
        let prompt = escape(sample["prompt"].as_str().unwrap_or_default());
        format!(
            "<details><summary><code>{prompt}</code></summary><table>{}</table></details>",
            answers(index)
        )
    });
    match tables.collect::<String>() {
        tables if tables.is_empty() => tables,
        tables => format!("<h2>Answers at every evaluation</h2>{tables}"),
    }
}

fn samples(samples: &[BeforeAfter]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let one = |s: &BeforeAfter| {
        let rows = [
            ("prompt", &s.prompt),
            ("expected", &s.expected),
            ("before", &s.before),
            ("after", &s.after),
        ];
        let rows = rows
            .iter()
            .map(|(k, v)| format!("<tr><th>{k}</th><td><pre>{}</pre></td></tr>", escape(v)));
        format!("<table>{}</table><p></p>", rows.collect::<String>())
    };
    format!("<h2>Sample answers</h2>{}", samples.iter().map(one).collect::<String>())
}
