//! Rows of the table from the journal: means over seeds, and who is on the Pareto front.

use serde_json::Value;

use super::catalog::TECHNIQUES;
use super::journal::Line;
use super::search::Tried;
use super::trial::number;

/// A technique, measured.
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub lr: f64,
    pub seeds: usize,
    pub loss: Spread,
    /// The task's own metric, where there is one.
    pub quality: Option<Spread>,
    /// Speeds are measured by themselves, and may not be yet.
    pub tokens_per_s: Option<f64>,
    /// Fed in a run.
    pub tokens: f64,
    /// Of a run, at that speed.
    pub seconds: Option<f64>,
    pub peak: f64,
    pub planned: f64,
    pub trainable: f64,
    pub file_bytes: f64,
    /// Loss on general text less the base's.
    pub forgotten: Option<f64>,
    pub merge_error: Option<f64>,
    pub merged_bytes: Option<f64>,
    pub generated_per_s: Option<f64>,
    pub merged_per_s: Option<f64>,
    /// torch + PEFT in the same run.
    pub beside: Option<Beside>,
    /// What the search tried.
    pub tried: Vec<Tried>,
    /// `(step, held-out loss)` of the first seed.
    pub held_out: Vec<(f64, f64)>,
    /// `(step, training loss)` of the first seed.
    pub train: Vec<(f64, f64)>,
    /// No other technique is at least as good in less memory.
    pub front: bool,
}

/// torch + PEFT beside it: where neither is given it cannot run there.
#[derive(Clone, Copy)]
pub struct Beside {
    /// Our tokens per second over theirs.
    pub speed: f64,
    /// Our peak memory over theirs.
    pub memory: f64,
    /// The metric, or the loss where there is none, of their result.
    pub quality: f64,
}

/// Mean and standard deviation of a sample.
#[derive(Clone, Copy)]
pub struct Spread {
    pub mean: f64,
    pub deviation: f64,
}

/// A results file, read.
pub struct Results {
    pub conditions: Line,
    pub base: Line,
    pub rows: Vec<Row>,
    /// Techniques that cannot run here, and why.
    pub left_out: Vec<(String, String)>,
}

impl Results {
    /// Nothing where no run is finished yet.
    pub fn of(lines: &[Line]) -> Option<Self> {
        let conditions = lines.first()?.clone();
        let base = lines.iter().find(|line| is(line, "phase", "base"))?.clone();
        let metric = conditions.get("metric").and_then(Value::as_str);
        let rows = TECHNIQUES.iter().filter_map(|technique| {
            let of = |phase: &str| -> Vec<&Line> {
                let lines = lines.iter().filter(|line| is(line, "technique", technique.name));
                lines.filter(|line| is(line, "phase", phase)).collect()
            };
            let mut row = row(
                technique.name,
                technique.about,
                metric,
                &of("run"),
                &of("search"),
                &base,
            )?;
            if let Some(speed) = of("speed").first() {
                row.add(speed);
            }
            row.beside = of("peft").first().and_then(|line| Beside::of(line, metric));
            Some(row)
        });
        let mut rows: Vec<Row> = rows.collect();
        let marks: Vec<bool> = rows.iter().map(|row| on_front(row, &rows)).collect();
        for (row, front) in rows.iter_mut().zip(marks) {
            row.front = front;
        }
        let left_out = lines.iter().filter(|line| is(line, "phase", "left_out"));
        let word = |line: &Line, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let left_out = left_out
            .map(|line| (word(line, "technique"), word(line, "why")))
            .collect();
        Some(Self {
            conditions,
            base,
            rows,
            left_out,
        })
    }

    /// The metric's name, or what stands for one.
    pub fn metric(&self) -> &str {
        self.conditions.get("metric").and_then(Value::as_str).unwrap_or("loss")
    }
}

fn row(
    name: &'static str,
    about: &'static str,
    metric: Option<&str>,
    runs: &[&Line],
    searched: &[&Line],
    base: &Line,
) -> Option<Row> {
    let first = runs.first()?;
    let of = |key: &str| -> Vec<f64> { runs.iter().map(|line| number(line, key)).collect() };
    let known = |key: &str| first.get(key).and_then(Value::as_f64);
    let mut tried: Vec<Tried> = searched
        .iter()
        .map(|line| (number(line, "lr"), line["loss"].as_f64().unwrap_or(f64::INFINITY)))
        .collect();
    tried.sort_by(|a, b| a.0.total_cmp(&b.0));
    let points = |which: &str| -> Vec<(f64, f64)> {
        let points = first["curve"][which].as_array().into_iter().flatten();
        points.filter_map(|p| Some((p[0].as_f64()?, p[1].as_f64()?))).collect()
    };
    Some(Row {
        name,
        about,
        lr: number(first, "lr"),
        seeds: runs.len(),
        loss: Spread::of(&of("loss")),
        quality: metric.map(|metric| Spread::of(&of(metric))),
        tokens: number(first, "tokens"),
        tokens_per_s: None,
        seconds: None,
        peak: of("peak_memory_bytes").into_iter().fold(0.0, f64::max),
        planned: number(first, "planned_memory_bytes"),
        trainable: number(first, "trainable"),
        file_bytes: number(first, "file_bytes"),
        forgotten: known("general_loss").map(|loss| loss - number(base, "general_loss")),
        merge_error: known("merge_error"),
        merged_bytes: known("merged_bytes"),
        generated_per_s: None,
        merged_per_s: None,
        beside: None,
        tried,
        held_out: points("held_out"),
        train: points("train"),
        front: false,
    })
}

impl Row {
    fn add(&mut self, speed: &Line) {
        let known = |key: &str| speed.get(key).and_then(Value::as_f64);
        self.tokens_per_s = known("tokens_per_s");
        self.seconds = self.tokens_per_s.map(|speed| self.tokens / speed);
        self.generated_per_s = known("generated_per_s");
        self.merged_per_s = known("merged_per_s");
    }

    /// Higher is better.
    pub fn worth(&self) -> f64 {
        self.quality.map_or(-self.loss.mean, |quality| quality.mean)
    }
}

impl Beside {
    fn of(line: &Line, metric: Option<&str>) -> Option<Self> {
        let of = |key: &str| line.get(key).and_then(Value::as_f64);
        Some(Self {
            speed: of("ours_per_s")? / of("tokens_per_s")?,
            memory: of("ours_peak_bytes")? / of("peak_bytes")?,
            quality: line["scored"][metric.unwrap_or("loss")].as_f64()?,
        })
    }
}

impl Spread {
    pub fn one(mean: f64) -> Self {
        Self { mean, deviation: 0.0 }
    }

    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / (n - 1.0).max(1.0)).sqrt();
        Self { mean, deviation }
    }
}

fn on_front(row: &Row, all: &[Row]) -> bool {
    let beats = |other: &Row| {
        let no_worse = other.worth() >= row.worth() && other.peak <= row.peak;
        no_worse && (other.worth() > row.worth() || other.peak < row.peak)
    };
    !all.iter().any(beats)
}

fn is(line: &Line, key: &str, value: &str) -> bool {
    line.get(key).is_some_and(|there| there == value)
}

#[cfg(test)]
pub mod tests {
    use super::super::journal::parse;
    use super::*;

    /// Two seeds of LoRA, one of full fine-tuning that is no better in more memory, and one left out.
    pub const LINES: &str = r#"{"config":"compare-embedded.toml","metric":"exact_match","steps":30,"search_steps":10,"seeds":2,"commit":"abc","machine":"a machine","date":"2026-01-02"}
{"phase":"base","parameters":1000,"loss":5.0,"exact_match":0.0,"general_loss":2.0}
{"technique":"lora","phase":"search","lr":0.001,"loss":2.0}
{"technique":"lora","phase":"search","lr":0.004,"loss":1.0}
{"technique":"lora","phase":"search","lr":0.016,"loss":null}
{"technique":"lora","phase":"run","seed":1,"lr":0.004,"loss":0.5,"exact_match":0.8,"tokens":100,"trainable":10,"peak_memory_bytes":1000000,"planned_memory_bytes":1100000,"file_bytes":2000,"general_loss":2.25,"merge_error":1e-5,"merged_bytes":4000,"curve":{"train":[[10,3.0],[30,0.6]],"held_out":[[0,5.0],[30,0.5]]}}
{"technique":"lora","phase":"run","seed":2,"lr":0.004,"loss":0.7,"exact_match":0.6,"tokens":100,"trainable":10,"peak_memory_bytes":1000000,"planned_memory_bytes":1100000,"file_bytes":2000,"curve":{"train":[],"held_out":[]}}
{"technique":"full","phase":"run","seed":1,"lr":0.004,"loss":0.5,"exact_match":0.7,"tokens":100,"trainable":1000,"peak_memory_bytes":2000000,"planned_memory_bytes":1900000,"file_bytes":4000,"general_loss":2.5,"curve":{"train":[],"held_out":[]}}
{"technique":"lora","phase":"speed","tokens_per_s":75.0,"generated_per_s":90.0,"merged_per_s":99.0}
{"technique":"lora","phase":"peft","tokens_per_s":50.0,"ours_per_s":75.0,"peak_bytes":4000000,"ours_peak_bytes":1000000,"scored":{"loss":0.6,"exact_match":0.75}}
{"technique":"bitfit","phase":"left_out","why":"no biases"}
"#;

    #[test]
    fn means_spreads_and_the_front_are_read_off_the_lines() {
        let results = Results::of(&parse(LINES).unwrap()).unwrap();
        assert_eq!(
            results.rows.iter().map(|row| row.name).collect::<Vec<_>>(),
            ["full", "lora"]
        );
        let lora = &results.rows[1];
        let quality = lora.quality.unwrap();
        assert!((quality.mean - 0.7).abs() < 1e-12 && (quality.deviation - 0.02f64.sqrt()).abs() < 1e-12);
        assert_eq!((lora.tokens_per_s, lora.forgotten), (Some(75.0), Some(0.25)));
        assert_eq!(lora.tried, [(0.001, 2.0), (0.004, 1.0), (0.016, f64::INFINITY)]);
        let beside = lora.beside.unwrap();
        assert_eq!((beside.speed, beside.memory, beside.quality), (1.5, 0.25, 0.75));
        assert!(lora.front && !results.rows[0].front);
        assert_eq!(results.left_out, [("bitfit".to_owned(), "no biases".to_owned())]);
    }
}
