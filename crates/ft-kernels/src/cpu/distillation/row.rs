//! One row: both losses from its logits, which become the slope of the objective.
//!
//! With q the student's and p the teacher's probabilities, `g = ∂D/∂q`, and z the student's logits,
//! `∂D/∂z = (q·g - q·Σ q·g) / T`. Everything is taken from logarithms of probabilities, which do not underflow.
use super::Rule;
use crate::cpu::isa::multiversion;
use crate::cpu::math::{self, LANES};
use crate::cpu::scratch;
use crate::distillation::{Divergence, TINY};

const FAR: f32 = crate::distillation::FAR as f32;

/// How far one category of a row sets the student apart from the teacher.
trait Measure: Copy {
    /// Its share of the divergence and `q·g`, from the logarithms of q and p.
    fn share(self, log_q: f32, log_p: f32) -> (f32, f32);
}

#[derive(Clone, Copy)]
struct Forward;

impl Measure for Forward {
    #[inline(always)]
    fn share(self, log_q: f32, log_p: f32) -> (f32, f32) {
        let p = math::exp(log_p);
        (p * (log_p - log_q), -p)
    }
}

#[derive(Clone, Copy)]
struct Reverse;

impl Measure for Reverse {
    /// The constant in `g = log q - log p + 1` falls out.
    #[inline(always)]
    fn share(self, log_q: f32, log_p: f32) -> (f32, f32) {
        let share = math::exp(log_q) * (log_q - log_p);
        (share, share)
    }
}

/// Weights of p and q in their mixture.
#[derive(Clone, Copy)]
struct Mixed(f32, f32);

impl Mixed {
    fn new(beta: f64) -> Self {
        Self(beta as f32, (1.0 - beta) as f32)
    }
}

impl Measure for Mixed {
    /// `M = β·p + (1-β)·q`, so that `log q/M = -log(β·p/q + 1-β)`.
    #[inline(always)]
    fn share(self, log_q: f32, log_p: f32) -> (f32, f32) {
        let Self(beta, rest) = self;
        let (q, p) = (math::exp(log_q), math::exp(log_p));
        let ratio = (log_p - log_q).clamp(-FAR, FAR);
        let mixture = math::ln(beta * math::exp(ratio) + rest);
        let own = -rest * q * mixture;
        (beta * p * (ratio - mixture) + own, own)
    }
}

multiversion! {
    /// Negative log likelihood and divergence from a teacher with logits `y`, which are overwritten.
    pub(super) fn live(z: &mut [f32], y: &mut [f32], target: usize, rule: &Rule, slopes: bool) -> [f32; 2] {
        match rule.divergence {
            Divergence::Forward => whole(z, y, target, rule, slopes, Forward),
            Divergence::Reverse => whole(z, y, target, rule, slopes, Reverse),
            Divergence::Mixed(beta) => whole(z, y, target, rule, slopes, Mixed::new(beta)),
        }
    }

    /// The same from the `log_probs` of the tokens `ids`; all others are one category.
    pub(super) fn top_k(
        z: &mut [f32],
        ids: &[usize],
        log_probs: &[f32],
        target: usize,
        rule: &Rule,
        slopes: bool,
    ) -> [f32; 2] {
        match rule.divergence {
            Divergence::Forward => cut(z, ids, log_probs, target, rule, slopes, Forward),
            Divergence::Reverse => cut(z, ids, log_probs, target, rule, slopes, Reverse),
            Divergence::Mixed(beta) => cut(z, ids, log_probs, target, rule, slopes, Mixed::new(beta)),
        }
    }
}

#[inline(always)]
fn whole(z: &mut [f32], y: &mut [f32], target: usize, rule: &Rule, slopes: bool, measure: impl Measure) -> [f32; 2] {
    let &Rule { common, cool, .. } = rule;
    let lse = math::log_sum_exp(z, 1.0);
    let nll = lse - z[target];
    let lse_q = if cool == 1.0 && common == z.len() {
        lse
    } else {
        math::log_sum_exp(&z[..common], cool)
    };
    let lse_p = math::log_sum_exp(y, cool);
    let (divergence, mean) = shares(&z[..common], y, cool, [lse_q, lse_p], measure);
    if slopes {
        // The slope to a cooled logit is q·g - q·mean.
        combine(z, rule, [lse, lse_q], -mean);
        z.iter_mut().zip(y).for_each(|(z, slope)| *z += rule.mimicry * *slope);
        z[target] -= rule.likelihood;
    }
    [nll, rule.scale * divergence]
}

#[inline(always)]
fn cut(
    z: &mut [f32],
    ids: &[usize],
    log_probs: &[f32],
    target: usize,
    rule: &Rule,
    slopes: bool,
    measure: impl Measure,
) -> [f32; 2] {
    let &Rule { common, cool, .. } = rule;
    let lse = math::log_sum_exp(z, 1.0);
    let nll = lse - z[target];
    let mut top = scratch::take(ids.len());
    let (lse_q, log_q_tail) = split(&mut z[..common], ids, cool, &mut top);
    let (mut divergence, mut mean) = (0.0, 0.0);
    for (log_q, log_p) in top.iter().zip(log_probs) {
        let (value, slope) = measure.share(*log_q, *log_p);
        (divergence, mean) = (divergence + value, mean + slope);
    }
    // The slope of a token of the tail is its q times this.
    let mut tail = 0.0;
    if ids.len() < common {
        let (value, slope) = measure.share(log_q_tail, log_tail(log_probs));
        (divergence, mean) = (divergence + value, mean + slope);
        tail = slope / math::exp(log_q_tail) - mean;
    }
    if slopes {
        for ((top, &log_p), &id) in top.iter_mut().zip(log_probs).zip(ids) {
            let slope = measure.share(*top, log_p).1 - math::exp(*top) * mean;
            *top = rule.likelihood * math::exp(z[id] - lse) + rule.mimicry * slope;
        }
        combine(z, rule, [lse, lse_q], tail);
        ids.iter().zip(top.iter()).for_each(|(&id, &slope)| z[id] = slope);
        z[target] -= rule.likelihood;
    }
    [nll, rule.scale * divergence]
}

/// Sums of the shares and of the `q·g`, which take the place of the teacher's logits.
#[inline(always)]
fn shares(z: &[f32], y: &mut [f32], cool: f32, [lse_q, lse_p]: [f32; 2], measure: impl Measure) -> (f32, f32) {
    let (zs, z_rest) = z.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks_mut::<LANES>();
    let (mut values, mut slopes) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (z, y) in zs.iter().zip(ys) {
        for l in 0..LANES {
            let (value, slope) = measure.share(z[l] * cool - lse_q, y[l] * cool - lse_p);
            values[l] += value;
            slopes[l] += slope;
            y[l] = slope;
        }
    }
    let mut rest = (0.0, 0.0);
    for (z, y) in z_rest.iter().zip(y_rest) {
        let (value, slope) = measure.share(z * cool - lse_q, *y * cool - lse_p);
        rest = (rest.0 + value, rest.1 + slope);
        *y = slope;
    }
    (math::total(&values) + rest.0, math::total(&slopes) + rest.1)
}

/// Turns logits into the slope of the likelihood, but for the target's, plus that of the divergence where it is `factor · q`.
#[inline(always)]
fn combine(z: &mut [f32], rule: &Rule, [lse, lse_q]: [f32; 2], factor: f32) {
    let &Rule { likelihood, cool, .. } = rule;
    let factor = rule.mimicry * factor;
    let (shared, own) = z.split_at_mut(rule.common);
    if cool == 1.0 && lse - lse_q < 1.0 {
        // Both are multiples of one exponential, by factors of like size.
        let both = likelihood + factor * math::exp(lse - lse_q);
        shared.iter_mut().for_each(|z| *z = both * math::exp(*z - lse));
    } else {
        for z in shared.iter_mut() {
            *z = likelihood * math::exp(*z - lse) + factor * math::exp(*z * cool - lse_q);
        }
    }
    own.iter_mut().for_each(|z| *z = likelihood * math::exp(*z - lse));
}

/// Writes the logarithms of the probabilities of `ids` to `top`; returns the logarithms of the sum of exponentials and of
/// what all other tokens hold.
///
/// The others are summed by themselves: one minus the rest would leave nothing of a small share.
#[inline(always)]
fn split(z: &mut [f32], ids: &[usize], cool: f32, top: &mut [f32]) -> (f32, f32) {
    for (top, &id) in top.iter_mut().zip(ids) {
        *top = std::mem::replace(&mut z[id], f32::NEG_INFINITY);
    }
    let max = math::max(z).max(math::max(top)) * cool;
    let others = math::sum_by(z, |z| math::exp(z * cool - max));
    let lse = max + (others + math::sum_by(top, |z| math::exp(z * cool - max))).ln();
    for (top, &id) in top.iter_mut().zip(ids) {
        z[id] = *top;
        *top = *top * cool - lse;
    }
    let log_tail = max + others.max(f32::MIN_POSITIVE).ln() - lse;
    (lse, log_tail.max(-FAR))
}

/// Logarithm of the probability that is left.
#[inline(always)]
fn log_tail(log_probs: &[f32]) -> f32 {
    let top: f64 = log_probs.iter().map(|&x| f64::from(math::exp(x))).sum();
    (1.0 - top).max(TINY).ln() as f32
}
