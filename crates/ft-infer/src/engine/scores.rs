//! Log probabilities of tokens, for those who ask.

use rayon::prelude::*;

/// The log probability of a token, in nats, under the model's own distribution: before temperature, penalties and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens with theirs, likeliest first; equal ones by id.
    pub top: Vec<(u32, f32)>,
}

impl TokenScore {
    /// Of token `id` under a row of logits, with the `top` likeliest.
    pub(super) fn of(logits: &[f32], id: u32, top: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
        let log_sum = f64::from(max) + sum.ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        Self {
            id,
            logprob: logprob(logits[id as usize]),
            top: likeliest(logits, top)
                .into_iter()
                .map(|id| (id, logprob(logits[id as usize])))
                .collect(),
        }
    }

    /// Of `ids` under as many rows of logits `[ids, vocab]`.
    pub(super) fn of_rows(logits: &[f32], vocab: usize, ids: &[u32], top: usize) -> Vec<Self> {
        let rows = logits.par_chunks_exact(vocab).zip(ids);
        rows.map(|(row, &id)| Self::of(row, id, top)).collect()
    }
}

fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let descending = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < ids.len() {
        ids.select_nth_unstable_by(count - 1, descending);
        ids.truncate(count);
    }
    ids.sort_unstable_by(descending);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_softmax() {
        // softmax(ln 1, ln 2, ln 5) = 1/8, 2/8, 5/8
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let score = TokenScore::of(&logits, 0, 2);
        assert!((score.logprob - (1.0f32 / 8.0).ln()).abs() < 1e-6);
        let top: Vec<u32> = score.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(top, [2, 1]);
        assert!((score.top[0].1 - (5.0f32 / 8.0).ln()).abs() < 1e-6);
        assert_eq!(TokenScore::of(&[1.0; 4], 3, 9).top.len(), 4);
        assert_eq!(TokenScore::of(&[1.0; 4], 3, 2).top[0].0, 0, "equal ones by id");
    }
}
