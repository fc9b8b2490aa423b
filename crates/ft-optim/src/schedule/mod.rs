//! Learning-rate schedules: pure functions of the step, so there is nothing to save and nothing to resume.
//!
//! The curves are those of `transformers/optimization.py`, value by value. One file per schedule, one line in the
//! registry below.

mod constant;
mod cosine;
mod cosine_warmup_with_min_lr;
mod cosine_with_restarts;
mod inverse_sqrt;
mod linear;
mod polynomial;
mod span;
mod warmup_stable_decay;

#[cfg(test)]
mod tests;

pub use constant::Constant;
pub use cosine::Cosine;
pub use cosine_warmup_with_min_lr::CosineWarmupWithMinLr;
pub use cosine_with_restarts::CosineWithRestarts;
pub use inverse_sqrt::InverseSqrt;
pub use linear::Linear;
pub use polynomial::Polynomial;
pub use span::Span;
pub use warmup_stable_decay::{Shape, WarmupStableDecay};

use crate::error::{Problems, Result};
use crate::registry::registry;

registry! {
    /// Section `[schedule]`: how the learning rate moves over the run.
    pub enum Schedule: Curve {
        /// Straight down to zero (the default).
        "linear" => Linear(Linear),
        /// Stays where it is.
        "constant" | "constant_with_warmup" => Constant(Constant),
        /// Down along half a cosine wave, to zero or to a floor.
        "cosine" | "cosine_with_min_lr" => Cosine(Cosine),
        /// Down along a cosine and up again at once, several times.
        "cosine_with_restarts" => CosineWithRestarts(CosineWithRestarts),
        /// Cosine with a floor whose warmup starts above zero.
        "cosine_warmup_with_min_lr" => CosineWarmupWithMinLr(CosineWarmupWithMinLr),
        /// Down along a power of the remaining share of the run.
        "polynomial" => Polynomial(Polynomial),
        /// Falls with the square root of the step.
        "inverse_sqrt" => InverseSqrt(InverseSqrt),
        /// Warmup, a long plateau, then decay (WSD).
        "warmup_stable_decay" => WarmupStableDecay(WarmupStableDecay),
    }
}

impl Schedule {
    /// The learning rate used by optimizer step `step` (0 is the first) of a run of `total` steps, for a base rate of
    /// `base` (`optim.lr`). With warmup, step 0 therefore runs at 0, which is also what Hugging Face's Trainer logs.
    pub fn lr(&self, base: f64, step: u64, total: u64) -> f64 {
        let curve = self.entry();
        let run = Run::new(base, step, total, curve.warmup());
        base * if run.step < run.warmup {
            curve.ramp(&run)
        } else {
            curve.after(&run)
        }
    }

    /// Length of the warmup in a run of `total` steps.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        self.entry().warmup().steps(total)
    }

    /// Whether the options make sense for a run of `total` steps at base rate `base`.
    ///
    /// # Errors
    /// [`Error::Options`](crate::Error::Options) with every problem: values out of range, phases longer than the run.
    pub fn check(&self, base: f64, total: u64) -> Result<()> {
        let mut problems = Problems::of("schedule");
        let curve = self.entry();
        let warmup = curve.warmup();
        problems.unless(warmup.steps(total) <= total, "warmup", || {
            format!("is {warmup} steps, but the whole run has {total}; write fewer steps or a share such as 0.03")
        });
        curve.check(&Run::new(base, 0, total, warmup), &mut problems);
        problems.finish()
    }
}

/// Where in which run a rate is asked for. Counts are `f64`: they only ever enter quotients.
struct Run {
    base: f64,
    step: f64,
    total: f64,
    warmup: f64,
}

impl Run {
    fn new(base: f64, step: u64, total: u64, warmup: Span) -> Self {
        let warmup = warmup.steps(total) as f64;
        Self {
            base,
            step: step as f64,
            total: total as f64,
            warmup,
        }
    }

    /// Share of the steps after the warmup that lies behind: 0 at its end, 1 at the end of the run.
    fn progress(&self) -> f64 {
        (self.step - self.warmup) / (self.total - self.warmup).max(1.0)
    }
}

/// What one schedule adds: a factor of the base rate for every step.
trait Curve {
    /// Length of the warmup.
    fn warmup(&self) -> Span;

    /// Factor before the end of the warmup: a straight line from 0.
    fn ramp(&self, run: &Run) -> f64 {
        run.step / run.warmup
    }

    /// Factor from the end of the warmup on.
    fn after(&self, run: &Run) -> f64;

    /// Notes options that cannot be used; the warmup's length is checked elsewhere.
    fn check(&self, _run: &Run, _problems: &mut Problems) {}
}

/// `½(1 + cos(2π·cycles·progress))`, lifted to end at `floor` instead of 0.
fn cosine_wave(cycles: f64, progress: f64, floor: f64) -> f64 {
    let wave = 0.5 * (1.0 + (std::f64::consts::PI * cycles * 2.0 * progress).cos());
    (wave * (1.0 - floor) + floor).max(0.0)
}

/// The lowest factor, given absolutely or as a share of the base rate.
fn floor(min_lr: Option<f64>, min_lr_rate: Option<f64>, base: f64) -> f64 {
    min_lr.map(|lr| lr / base).or(min_lr_rate).unwrap_or(0.0)
}

fn check_floor(min_lr: Option<f64>, min_lr_rate: Option<f64>, run: &Run, problems: &mut Problems) {
    problems.unless(min_lr.is_none() || min_lr_rate.is_none(), "min_lr", || {
        "and `schedule.min_lr_rate` say the same thing; write one of them".into()
    });
    problems.within(min_lr.unwrap_or(0.0), 0.0..=run.base, "min_lr");
    problems.within(min_lr_rate.unwrap_or(0.0), 0.0..=1.0, "min_lr_rate");
}
