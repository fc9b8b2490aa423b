//! Warmup, plateau, decay (Hu et al., "MiniCPM", 2024).

use super::{Curve, Run, Span};
use crate::error::Problems;

/// `kind = "warmup_stable_decay"`: rise to the base rate, stay there, then fall to `min_lr_ratio` of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WarmupStableDecay {
    /// Steps (`10`) or share of the run (`0.03`) of the rise.
    pub warmup: Span,
    /// Steps or share of the run of the fall.
    pub num_decay_steps: Span,
    /// Steps or share of the run of the plateau; by default all that warmup and decay leave over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_stable_steps: Option<Span>,
    /// Shape of the rise.
    pub warmup_type: Shape,
    /// Shape of the fall.
    pub decay_type: Shape,
    /// Rate at the very start and at the end, as a share of the base rate.
    pub min_lr_ratio: f64,
    /// Waves of a cosine fall; one half goes down once.
    pub num_cycles: f64,
}

/// How a rate moves from one level to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Shape {
    /// A straight line.
    #[serde(rename = "linear")]
    Linear,
    /// Half a cosine wave.
    #[serde(rename = "cosine")]
    Cosine,
    /// One minus the square root of the distance covered.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Default for WarmupStableDecay {
    fn default() -> Self {
        Self {
            warmup: Span::Steps(0),
            num_decay_steps: Span::Share(0.1),
            num_stable_steps: None,
            warmup_type: Shape::Linear,
            decay_type: Shape::Cosine,
            min_lr_ratio: 0.0,
            num_cycles: 0.5,
        }
    }
}

impl WarmupStableDecay {
    fn decay(&self, run: &Run) -> f64 {
        self.num_decay_steps.steps(run.total as u64) as f64
    }

    fn stable(&self, run: &Run) -> f64 {
        match self.num_stable_steps {
            Some(span) => span.steps(run.total as u64) as f64,
            None => run.total - run.warmup - self.decay(run),
        }
    }

    fn lifted(&self, factor: f64) -> f64 {
        (factor * (1.0 - self.min_lr_ratio) + self.min_lr_ratio).max(0.0)
    }
}

impl Curve for WarmupStableDecay {
    fn warmup(&self) -> Span {
        self.warmup
    }

    fn ramp(&self, run: &Run) -> f64 {
        let progress = run.step / run.warmup;
        self.lifted(match self.warmup_type {
            Shape::Linear => progress,
            Shape::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * progress).cos()),
            Shape::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
        })
    }

    fn after(&self, run: &Run) -> f64 {
        let fall = run.step - run.warmup - self.stable(run);
        if fall < 0.0 {
            return 1.0;
        }
        if fall >= self.decay(run) {
            return self.min_lr_ratio;
        }
        let progress = fall / self.decay(run);
        self.lifted(match self.decay_type {
            Shape::Linear => 1.0 - progress,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * self.num_cycles * 2.0 * progress).cos()),
            Shape::OneMinusSqrt => 1.0 - progress.sqrt(),
        })
    }

    fn check(&self, run: &Run, problems: &mut Problems) {
        problems.within(self.min_lr_ratio, 0.0..=1.0, "min_lr_ratio");
        problems.within(self.num_cycles, 0.0..=f64::INFINITY, "num_cycles");
        let phases = run.warmup + self.stable(run).max(0.0) + self.decay(run);
        problems.unless(phases <= run.total, "num_decay_steps", || {
            format!(
                "with warmup and plateau makes {phases} steps, but the whole run has {}",
                run.total
            )
        });
    }
}
