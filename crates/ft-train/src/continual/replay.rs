//! Experience replay: samples of earlier tasks are fed beside those of the present one.
//!
//! ```text
//! buffer    `buffer` samples, every sample of the earlier tasks with the same probability (reservoir sampling)
//! step      its own samples and `ratio` as many from the buffer; the loss is the mean over the target tokens of both
//! ```
//!
//! Chaudhry et al. 2019, arXiv:1902.10486 (ER). The buffer is a function of the seed and of what was
//! fed; where a step's share is no whole number, some steps have one more.

use ft_data::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::memory::share;
use super::{Setting, Strategy, StrategyKind, at_least_one, at_least_zero};

/// Options of replay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Samples from the buffer for every sample of the present task. 0.01 to 0.1 is common for large models.
    pub ratio: f64,
    /// Samples in the buffer.
    pub buffer: usize,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            ratio: 0.1,
            buffer: 1000,
        }
    }
}

impl StrategyKind for ReplayConfig {
    fn check(&self) -> Vec<String> {
        let mut wrong: Vec<String> = at_least_zero("ratio", self.ratio).into_iter().collect();
        if self.ratio > 100.0 {
            wrong.push("continual.ratio: more than 100 earlier samples for one of the present task".into());
        }
        wrong.extend(at_least_one("buffer", self.buffer));
        wrong
    }

    fn adds_passes(&self) -> bool {
        self.ratio > 0.0
    }

    fn build(&self, setting: Setting) -> Box<dyn Strategy> {
        Box::new(Replay {
            options: *self,
            setting,
            buffer: None,
            replayed: 0,
        })
    }
}

struct Replay {
    options: ReplayConfig,
    setting: Setting,
    /// The buffer of a phase.
    buffer: Option<(usize, Vec<usize>)>,
    /// Samples of the last step that came from it.
    replayed: usize,
}

impl Strategy for Replay {
    fn mix(&mut self, step: usize, samples: usize) -> Vec<usize> {
        let phase = self.setting.phase(step);
        if self.buffer.as_ref().is_none_or(|(of, _)| *of != phase) {
            self.buffer = Some((phase, self.setting.reservoir(self.options.buffer, phase)));
        }
        let rows = self.buffer.as_ref().map_or(&[][..], |(_, rows)| rows);
        let count = share(step, samples, self.options.ratio);
        let mut rng = stream(self.setting.seed, &format!("replay/{step}"));
        let rows = self.setting.draw(rows, count, &mut rng);
        self.replayed = rows.len();
        rows
    }

    fn report(&self, line: &mut Map<String, Value>) {
        line.insert("replayed".into(), self.replayed.into());
    }
}
