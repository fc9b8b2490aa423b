//! One row: both losses from its logits, which become the slope of the objective.
//!
//! With q the student's and p the teacher's probabilities, `g = ∂D/∂q`, and z the student's logits,
//! `∂D/∂z = (q·g - q·Σ q·g) / T`. Everything is taken from logarithms of probabilities, which do not underflow.
use super::Rule;
use crate::cpu::isa::multiversion;
use crate::cpu::{math, scratch};
use crate::distillation::{Divergence, TINY};

const FAR: f32 = crate::distillation::FAR as f32;

/// A category's share of the divergence, and `q·g`, from the logarithms of q and p.
type Share = (f32, f32);

#[inline(always)]
fn forward(log_q: f32, log_p: f32) -> Share {
    let p = math::exp(log_p);
    (p * (log_p - log_q), -p)
}

/// The constant in `g = log q - log p + 1` falls out.
#[inline(always)]
fn reverse(log_q: f32, log_p: f32) -> Share {
    let share = math::exp(log_q) * (log_q - log_p);
    (share, share)
}

/// `M = β·p + (1-β)·q`, so that `log q/M = -log(β·p/q + 1-β)`.
#[inline(always)]
fn mixed(log_q: f32, log_p: f32, beta: f32, rest: f32) -> Share {
    let (q, p) = (math::exp(log_q), math::exp(log_p));
    let ratio = (log_p - log_q).clamp(-FAR, FAR);
    let mixture = math::ln(beta * math::exp(ratio) + rest);
    let own = -rest * q * mixture;
    (beta * p * (ratio - mixture) + own, own)
}

multiversion! {
    /// Negative log likelihood and divergence from a teacher with logits `y`.
    pub(super) fn live(z: &mut [f32], y: &[f32], target: usize, rule: &Rule, slopes: bool) -> [f32; 2] {
        match rule.divergence {
            Divergence::Forward => whole(z, y, target, rule, slopes, forward),
            Divergence::Reverse => whole(z, y, target, rule, slopes, reverse),
            Divergence::Mixed(beta) => {
                let (beta, rest) = (beta as f32, (1.0 - beta) as f32);
                whole(z, y, target, rule, slopes, |q, p| mixed(q, p, beta, rest))
            }
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
            Divergence::Forward => cut(z, ids, log_probs, target, rule, slopes, forward),
            Divergence::Reverse => cut(z, ids, log_probs, target, rule, slopes, reverse),
            Divergence::Mixed(beta) => {
                let (beta, rest) = (beta as f32, (1.0 - beta) as f32);
                cut(z, ids, log_probs, target, rule, slopes, |q, p| mixed(q, p, beta, rest))
            }
        }
    }
}

#[inline(always)]
fn whole(
    z: &mut [f32],
    y: &[f32],
    target: usize,
    rule: &Rule,
    slopes: bool,
    share: impl Fn(f32, f32) -> Share,
) -> [f32; 2] {
    let &Rule { common, cool, .. } = rule;
    let lse = math::log_sum_exp(z, 1.0);
    let nll = lse - z[target];
    let lse_q = if cool == 1.0 && common == z.len() {
        lse
    } else {
        math::log_sum_exp(&z[..common], cool)
    };
    let lse_p = math::log_sum_exp(y, cool);
    let share = |z: f32, y: f32| share(z * cool - lse_q, y * cool - lse_p);
    let (divergence, mean) = math::pair_sums(&z[..common], y, share);
    if slopes {
        let (shared, own) = z.split_at_mut(common);
        for (z, y) in shared.iter_mut().zip(y) {
            let slope = share(*z, *y).1 - math::exp(*z * cool - lse_q) * mean;
            *z = rule.likelihood * math::exp(*z - lse) + rule.mimicry * slope;
        }
        own.iter_mut().for_each(|z| *z = rule.likelihood * math::exp(*z - lse));
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
    share: impl Fn(f32, f32) -> Share,
) -> [f32; 2] {
    let &Rule { common, cool, .. } = rule;
    let lse = math::log_sum_exp(z, 1.0);
    let nll = lse - z[target];
    let mut top = scratch::take(ids.len());
    let (lse_q, log_q_tail) = split(&mut z[..common], ids, cool, &mut top);
    let (mut divergence, mut mean) = math::pair_sums(&top, log_probs, &share);
    // The slope of each token of the tail is its q times this.
    let mut tail = 0.0;
    if ids.len() < common {
        let (value, slope) = share(log_q_tail, log_tail(log_probs));
        (divergence, mean) = (divergence + value, mean + slope);
        tail = slope / math::exp(log_q_tail) - mean;
    }
    if slopes {
        let (shared, own) = z.split_at_mut(common);
        let likelihood = |z: f32| rule.likelihood * math::exp(z - lse);
        for ((top, &log_p), &id) in top.iter_mut().zip(log_probs).zip(ids) {
            let slope = share(*top, log_p).1 - math::exp(*top) * mean;
            *top = likelihood(shared[id]) + rule.mimicry * slope;
        }
        for z in shared.iter_mut() {
            *z = likelihood(*z) + rule.mimicry * tail * math::exp(*z * cool - lse_q);
        }
        ids.iter().zip(top.iter()).for_each(|(&id, &slope)| shared[id] = slope);
        own.iter_mut().for_each(|z| *z = likelihood(*z));
        z[target] -= rule.likelihood;
    }
    [nll, rule.scale * divergence]
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
