//! From one row of logits to one token: temperature, top-k, top-p, min-p, and the draw.
//!
//! The order and the borderline cases are those of transformers: temperature, top-k (ties of the k-th stay), top-p (the
//! token that crosses the threshold stays), min-p (relative to the likeliest).

use rand_chacha::rand_core::Rng;

use crate::GenerationConfig;

/// A token that may still be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: u32,
    /// Logit, already divided by the temperature.
    pub(crate) logit: f32,
}

/// The index of the largest logit; the first of equals. `None` if the row is empty or holds NaN.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, top)| logit > top) {
            best = Some((id as u32, logit));
        }
    }
    best.map(|(id, _)| id)
}

/// Draws a token from a row of logits. `None` if the row holds NaN or no finite logit.
pub(crate) fn draw(logits: &[f32], config: &GenerationConfig, rng: &mut impl Rng) -> Option<u32> {
    let finite = logits.iter().all(|logit| !logit.is_nan() && *logit < f32::INFINITY);
    let mut kept = if finite { filter(logits, config) } else { Vec::new() };
    // In the order of ids: rounding noise that swaps two near-equal logits then barely moves the intervals drawn from.
    kept.sort_unstable_by_key(|candidate| candidate.id);
    let weights = probabilities(&kept);
    pick(&kept, &weights, unit(rng))
}

/// The candidates that all filters leave, in no particular order.
pub(crate) fn filter(logits: &[f32], config: &GenerationConfig) -> Vec<Candidate> {
    let temperature = config.temperature as f32;
    let scaled = logits.iter().enumerate().map(|(id, logit)| Candidate {
        id: id as u32,
        logit: logit / temperature,
    });
    let mut kept: Vec<Candidate> = scaled.filter(|candidate| candidate.logit > f32::NEG_INFINITY).collect();
    top_k(&mut kept, config.top_k);
    top_p(&mut kept, config.top_p);
    min_p(&mut kept, config.min_p);
    kept
}

/// Likeliest first; equal ones by id, so that the result depends on nothing else.
fn descending(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

fn top_k(kept: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= kept.len() {
        return;
    }
    let (_, kth, _) = kept.select_nth_unstable_by(k - 1, descending);
    let threshold = kth.logit;
    kept.retain(|candidate| candidate.logit >= threshold);
}

/// SavedActivations the shortest head of the sorted candidates whose probability reaches `p`.
fn top_p(kept: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 || kept.is_empty() {
        return;
    }
    let weights = probabilities(kept);
    let total: f64 = weights.iter().sum();
    let maximum = kept
        .iter()
        .map(|candidate| candidate.logit)
        .fold(f32::NEG_INFINITY, f32::max);
    let weight = |candidate: &Candidate| f64::from((candidate.logit - maximum).exp()) / total;
    // Sorting a whole vocabulary for a head of a few dozen tokens would cost more than the draw: sort a growing head.
    let mut sorted = 0;
    let mut mass = 0.0;
    while sorted < kept.len() {
        let end = (sorted * 8).clamp(256, kept.len().max(256)).min(kept.len());
        if end < kept.len() {
            kept[sorted..].select_nth_unstable_by(end - sorted, descending);
        }
        kept[sorted..end].sort_unstable_by(descending);
        for position in sorted..end {
            mass += weight(&kept[position]);
            if mass >= p {
                kept.truncate(position + 1);
                return;
            }
        }
        sorted = end;
    }
}

fn min_p(kept: &mut Vec<Candidate>, p: f64) {
    if p <= 0.0 {
        return;
    }
    let maximum = kept
        .iter()
        .map(|candidate| candidate.logit)
        .fold(f32::NEG_INFINITY, f32::max);
    kept.retain(|candidate| f64::from((candidate.logit - maximum).exp()) >= p);
}

/// Unnormalized probabilities: 1 for the likeliest.
fn probabilities(kept: &[Candidate]) -> Vec<f64> {
    let maximum = kept
        .iter()
        .map(|candidate| candidate.logit)
        .fold(f32::NEG_INFINITY, f32::max);
    kept.iter()
        .map(|candidate| f64::from((candidate.logit - maximum).exp()))
        .collect()
}

/// A number in [0, 1) with 53 random bits.
fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The candidate whose interval of the cumulated weights holds `unit` of the whole.
fn pick(kept: &[Candidate], weights: &[f64], unit: f64) -> Option<u32> {
    let mut left = unit * weights.iter().sum::<f64>();
    for (candidate, weight) in kept.iter().zip(weights) {
        if left < *weight {
            return Some(candidate.id);
        }
        left -= weight;
    }
    // Rounding can leave a remainder behind the last interval.
    kept.last().map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests;
