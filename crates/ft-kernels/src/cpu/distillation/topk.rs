//! The most probable tokens of every row, without the logits of all rows.
use super::step;
use crate::cpu::gemm::{Mat, Par, Term, gemm};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch, soft_cap};
use std::cmp::Ordering;

/// Ids and logarithms of the probabilities of the `k` most probable of `weight`'s rows `[common, d]`, `[n, k]` each.
pub(crate) fn top_k(hidden: Mat, weight: Mat, k: usize, temperature: f32, cap: Option<f32>) -> (Vec<i32>, Vec<f32>) {
    let (n, common) = (hidden.rows(), weight.rows());
    let (mut ids, mut log_probs) = (vec![0; n * k], vec![0.0; n * k]);
    let step = step(common).min(n.max(1));
    let mut logits = scratch::take(step * common);
    for start in (0..n).step_by(step) {
        let rows = step.min(n - start);
        let logits = &mut logits[..rows * common];
        let hidden = hidden.narrow_rows(start, rows);
        gemm(&[Term::new(hidden, weight.t())], logits, common, false, Par::All);
        soft_cap::bound_all(logits, cap);
        let range = start * k..(start + rows) * k;
        let ids = par::Shared::new(&mut ids[range.clone()]);
        let log_probs = par::Shared::new(&mut log_probs[range]);
        par::row_blocks(rows, common, |start, len| {
            for row in start..start + len {
                // SAFETY: every row belongs to one block.
                let out = unsafe { (ids.slice(row * k, k), log_probs.slice(row * k, k)) };
                best(&logits[row * common..][..common], 1.0 / temperature, out);
            }
        });
    }
    (ids, log_probs)
}

/// The best of one row.
fn best(logits: &[f32], cool: f32, (ids, log_probs): (&mut [i32], &mut [f32])) {
    let lse = log_sum_exp(logits, cool);
    let best = select(logits, ids.len());
    for ((id, log_prob), (logit, token)) in ids.iter_mut().zip(log_probs).zip(best) {
        (*id, *log_prob) = (token, logit * cool - lse);
    }
}

/// The `k` largest with their places, the largest first; of equals the first.
fn select(logits: &[f32], k: usize) -> Vec<(f32, i32)> {
    let room = (2 * k).max(256);
    let mut kept: Vec<(f32, i32)> = Vec::with_capacity(room);
    let mut bar = None;
    for (token, &logit) in logits.iter().enumerate() {
        if bar.is_some_and(|bar| logit <= bar) {
            continue;
        }
        kept.push((logit, token as i32));
        if kept.len() == room {
            kept.select_nth_unstable_by(k - 1, order);
            kept.truncate(k);
            bar = Some(kept[k - 1].0);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(k);
    kept
}

fn order(a: &(f32, i32), b: &(f32, i32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

multiversion! {
    fn log_sum_exp(logits: &[f32], cool: f32) -> f32 {
        math::log_sum_exp(logits, cool)
    }
}
