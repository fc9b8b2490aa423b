//! Progress on a terminal's last line, or as plain lines where there is no terminal: burn-train's renderer when its
//! full-screen one is not wanted.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{LearningRateMetric, Metric, MetricDefinition, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

use crate::watch::metrics::{Kind, Loss, Throughput};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One line that is drawn over.
    Bar,
    /// A new line at every logged step.
    Lines,
}

/// Shows nothing.
pub struct Silent;

impl MetricsRendererTraining for Silent {
    fn update_train(&mut self, _: MetricState) {}
    fn update_valid(&mut self, _: MetricState) {}
}

impl TrainingProgressLogger for Silent {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn update_epoch(&mut self, _: usize) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Silent {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRendererEvaluation for Silent {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for Silent {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}

/// Shows step, loss, learning rate, tokens per second and the time left.
pub struct ProgressRenderer {
    out: Box<dyn Write + Send + Sync>,
    style: Style,
    log_every: usize,
    /// The loss is a mean negative log-likelihood.
    likelihood: bool,
    step: usize,
    total: usize,
    first: usize,
    started: Instant,
    drawn: Option<Instant>,
    training: bool,
    names: Vec<(burn::train::metric::MetricId, String)>,
    train: BTreeMap<String, f64>,
    /// Loss summed over its units, and how many those are, since the last line.
    interval: (f64, f64),
    valid: BTreeMap<String, (f64, f64)>,
}

impl ProgressRenderer {
    /// A renderer that writes to `out`.
    pub fn new(out: Box<dyn Write + Send + Sync>, style: Style) -> Self {
        Self {
            out,
            style,
            log_every: 1,
            likelihood: true,
            step: 0,
            total: 0,
            first: 0,
            started: Instant::now(),
            drawn: None,
            training: true,
            names: Vec::new(),
            train: BTreeMap::new(),
            interval: (0.0, 0.0),
            valid: BTreeMap::new(),
        }
    }

    /// Tells it the run: the last finished step (0 at the start), all steps, steps between two lines.
    pub fn with_steps(mut self, done: usize, total: usize, log_every: usize) -> Self {
        (self.first, self.step, self.total, self.log_every) = (done, done, total, log_every.max(1));
        self
    }

    /// Tells it that e to the loss is no perplexity.
    pub fn without_perplexity(self, is_none: bool) -> Self {
        Self {
            likelihood: !is_none,
            ..self
        }
    }

    fn name(&self, state: &MetricState) -> Option<(String, f64, f64)> {
        let MetricState::Numeric(entry, number) = state else {
            return None;
        };
        let (_, name) = self.names.iter().find(|(id, _)| *id == entry.metric_id)?;
        let (value, weight) = match number {
            Some(NumericEntry::Aggregated {
                aggregated_value,
                count,
            }) => (*aggregated_value, *count as f64),
            Some(other) => (other.current(), 0.0),
            None => return None,
        };
        Some((name.clone(), value, weight))
    }

    /// `step 120/1000  loss 2.3141  lr 1.9e-4  812 tok/s  eta 3m12s`
    fn line(&self) -> String {
        let mut text = format!("step {}/{}", self.step, self.total);
        let value = |name: &str| self.train.get(name).copied().filter(|v| v.is_finite());
        if let Some(loss) = self.interval_loss().or_else(|| value(Loss::NAME)) {
            text += &format!("  loss {loss:.4}");
        }
        if let Some(lr) = value(&LearningRateMetric::new().name()) {
            text += &format!("  lr {lr:.2e}");
        }
        if let Some(speed) = value(Throughput::NAME).filter(|s| *s > 0.0) {
            text += &format!("  {speed:.0} tok/s");
        }
        let done = self.step - self.first;
        if done > 0 && self.total > self.step {
            let left = self
                .started
                .elapsed()
                .mul_f64((self.total - self.step) as f64 / done as f64);
            text += &format!("  eta {}", duration(left));
        }
        text
    }

    /// A line stands for the steps since the one before, as in `metrics.jsonl`; the bar for the last step.
    fn interval_loss(&self) -> Option<f64> {
        let (sum, weight) = self.interval;
        (self.style == Style::Lines && weight > 0.0 && sum.is_finite()).then(|| sum / weight)
    }

    fn draw(&mut self) {
        let last = self.step == self.total;
        let text = self.line();
        match self.style {
            Style::Lines if self.step.is_multiple_of(self.log_every) || last => {
                self.write(&format!("{text}\n"));
                self.interval = (0.0, 0.0);
            }
            Style::Lines => {}
            Style::Bar => {
                let fresh = self.drawn.is_some_and(|t| t.elapsed() < Duration::from_millis(100));
                if !fresh || last {
                    let bar = bar(self.step, self.total);
                    self.write(&format!("\r\x1b[2K{bar} {text}"));
                    self.drawn = Some(Instant::now());
                }
            }
        }
    }

    /// A line that stays, above the bar.
    fn note(&mut self, text: &str) {
        match self.style {
            Style::Bar => self.write(&format!("\r\x1b[2K{text}\n")),
            Style::Lines => self.write(&format!("{text}\n")),
        }
    }

    /// Progress is not worth a run: a closed stderr is ignored.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

fn bar(step: usize, total: usize) -> String {
    const WIDTH: usize = 24;
    let full = (WIDTH * step.min(total)).checked_div(total).unwrap_or(0);
    format!("[{}{}]", "=".repeat(full), " ".repeat(WIDTH - full))
}

/// `3m12s`.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs() {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

impl MetricsRendererTraining for ProgressRenderer {
    fn update_train(&mut self, state: MetricState) {
        if let Some((name, value, weight)) = self.name(&state) {
            if name == Loss::NAME {
                self.interval = (self.interval.0 + value * weight, self.interval.1 + weight);
            }
            self.train.insert(name, value);
        }
    }

    fn update_valid(&mut self, state: MetricState) {
        if let Some((name, value, weight)) = self.name(&state) {
            let sum = self.valid.entry(name).or_default();
            *sum = (sum.0 + value * weight, sum.1 + weight);
        }
    }

    fn on_train_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl TrainingProgressLogger for ProgressRenderer {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {
        self.started = Instant::now();
    }

    fn start_split(&mut self, split: &str, _: usize) {
        self.training = split == "train";
        self.valid.clear();
    }

    fn update_split(&mut self, _: usize) {
        if self.training {
            self.step += 1;
            self.draw();
        }
    }

    fn end_split(&mut self) {
        if self.training {
            return;
        }
        if let Some((sum, weight)) = self.valid.get(Loss::NAME).copied().filter(|(_, w)| *w > 0.0) {
            let loss = sum / weight;
            let mut line = format!("step {}/{}  eval loss {loss:.4}", self.step, self.total);
            if self.likelihood {
                line += &format!("  perplexity {:.3}", loss.exp());
            }
            self.note(&line);
        }
    }

    fn update_epoch(&mut self, _: usize) {}

    fn end(&mut self) {
        if self.style == Style::Bar && self.drawn.is_some() {
            self.write("\n");
        }
    }

    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for ProgressRenderer {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRendererEvaluation for ProgressRenderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for ProgressRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.push((definition.metric_id, definition.name.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use burn::train::metric::{MetricEntry, MetricId, SerializedEntry};

    use super::*;
    use crate::watch::metrics::MeanMetric;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_shows_the_mean_over_the_tokens_since_the_last_one() {
        let out = Shared::default();
        let mut renderer = ProgressRenderer::new(Box::new(out.clone()), Style::Lines).with_steps(0, 4, 2);
        let loss = MeanMetric::<Loss>::default();
        let id = MetricId::new(loss.name());
        renderer.register_metric(MetricDefinition::new(id.clone(), &loss));
        renderer.start_split("train", 4);
        for (step, (aggregated_value, count)) in [(4.0, 10), (1.0, 30), (2.0, 5), (3.0, 5)].into_iter().enumerate() {
            let entry = MetricEntry::new(id.clone(), SerializedEntry::new(String::new(), String::new()));
            let number = NumericEntry::Aggregated {
                aggregated_value,
                count,
            };
            renderer.update_train(MetricState::Numeric(entry, Some(number)));
            renderer.update_split(step + 1);
        }
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("step 2/4  loss 1.7500") && lines[1].starts_with("step 4/4  loss 2.5000"),
            "{text}"
        );
        assert_eq!(lines.len(), 2);
    }
}
