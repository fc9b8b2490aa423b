//! Beam search as transformers does it: `num_beams` running hypotheses per prompt, finished ones ranked by
//! log probability / length ^ `length_penalty`.

use ft_model::{KvCache, NextTokens};
use rayon::prelude::*;

use crate::config::EarlyStopping;
use crate::penalty;
use crate::{Error, GenerationConfig, Result};

/// Score of a hypothesis that must not be chosen.
const NEVER: f32 = -1e9;

/// A hypothesis: the prompt with an answer so far, and the sum of the answer's log probabilities.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<u32>,
    score: f32,
}

/// A way to go on: which beam, which token, at which score.
#[derive(Clone, Copy, Debug)]
struct Next {
    beam: usize,
    id: u32,
    score: f32,
    /// The answer ends with this token.
    ends: bool,
}

/// The search for one prompt's answer.
#[derive(Debug)]
pub(crate) struct Search {
    /// Tokens of the prompt.
    prompt: usize,
    /// Best first.
    running: Vec<Beam>,
    /// Keys and values of each of them but for its last token. Beams that continue the same one share buffers until they write.
    caches: Vec<KvCache>,
    /// At most `num_beams`, best first; scores are divided by the length.
    finished: Vec<Beam>,
}

/// A step considers (stop tokens + 1) * `num_beams` continuations, which must exist.
///
/// # Errors
/// [`Error::Settings`] where they do not.
pub(crate) fn check_width(vocab: usize, config: &GenerationConfig) -> Result<()> {
    if config.num_beams == 1 || candidates(config) <= config.num_beams.saturating_mul(vocab) {
        return Ok(());
    }
    let stops = config.eos_token_id.len();
    Err(Error::Settings(vec![format!(
        "{stops} stop tokens leave too little of a vocabulary of {vocab} for beam search"
    )]))
}

/// Continuations looked at in a step: enough that `num_beams` of them do not end the answer.
fn candidates(config: &GenerationConfig) -> usize {
    let stops = if config.ignore_eos {
        0
    } else {
        config.eos_token_id.len()
    };
    (stops + 1).max(2).saturating_mul(config.num_beams)
}

/// Logits of a row as log probabilities.
fn log_softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from((logit - max).exp())).sum();
    let log_sum = sum.ln() as f32;
    row.iter_mut().for_each(|logit| *logit = *logit - max - log_sum);
}

impl Search {
    /// All beams begin with `prompt`, of which `cache` holds all.
    pub fn new(prompt: &[u32], cache: KvCache, config: &GenerationConfig) -> Self {
        // They begin alike: only the first may be continued, or they would stay alike.
        let beam = |index| Beam {
            tokens: prompt.to_vec(),
            score: if index == 0 { 0.0 } else { NEVER },
        };
        Self {
            prompt: prompt.len(),
            running: (0..config.num_beams).map(beam).collect(),
            caches: vec![cache; config.num_beams],
            finished: Vec::new(),
        }
    }

    /// Tokens of a running beam, the prompt's included.
    pub fn tokens(&self) -> usize {
        self.prompt + self.generated(0)
    }

    /// What the next step takes in: the last token of each beam.
    pub fn last_tokens(&mut self) -> Vec<NextTokens<'_>> {
        let beams = self.running.iter().zip(&mut self.caches);
        let last = |(beam, cache)| {
            let beam: &Beam = beam;
            let ids = &beam.tokens[beam.tokens.len() - 1..];
            NextTokens { cache, ids }
        };
        beams.map(last).collect()
    }

    /// Goes one token further. `logits`: `[beams, vocab]`, or one row for all of them. Whether the search goes on; `None` where logits
    /// are no numbers.
    pub fn advance(&mut self, logits: &mut [f32], vocab: usize, config: &GenerationConfig) -> Option<bool> {
        logits.par_chunks_exact_mut(vocab).for_each(log_softmax);
        let next = self.continuations(logits, vocab, config)?;
        let beams = config.num_beams;
        // Continuations behind the first `num_beams` are there to keep the search going, not to end it.
        let ending: Vec<Next> = next[..beams].iter().copied().filter(|next| next.ends).collect();
        let running: Vec<Next> = next.iter().copied().filter(|next| !next.ends).take(beams).collect();
        self.finish(&ending, config);
        self.caches = running.iter().map(|next| self.caches[next.beam].clone()).collect();
        self.running = running.iter().map(|next| self.extend(next)).collect();
        Some(!self.running.is_empty() && self.can_improve(config))
    }

    /// The likeliest continuations over all beams, best first.
    fn continuations(&self, scores: &[f32], vocab: usize, config: &GenerationConfig) -> Option<Vec<Next>> {
        let rows = scores.len() / vocab;
        let mut all = Vec::with_capacity(self.running.len() * vocab);
        for (number, beam) in self.running.iter().enumerate() {
            let mut row = scores[number % rows * vocab..][..vocab].to_vec();
            penalty::penalize(&mut row, &beam.tokens, config);
            if row.iter().any(|score| score.is_nan()) {
                return None;
            }
            let sum = beam.score;
            all.extend((0..).zip(&row).map(|(id, score)| (score + sum, number, id)));
        }
        let best_first = |a: &(f32, usize, u32), b: &(f32, usize, u32)| {
            b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        };
        let keep = candidates(config);
        if keep < all.len() {
            all.select_nth_unstable_by(keep, best_first);
            all.truncate(keep);
        }
        all.sort_unstable_by(best_first);
        let full = self.generated(1) >= config.max_new_tokens;
        let next = |(score, beam, id)| Next {
            beam,
            id,
            score,
            ends: full || config.stops_at(id),
        };
        Some(all.into_iter().map(next).collect())
    }

    /// Ranks the beams that have just ended among the finished ones.
    fn finish(&mut self, ending: &[Next], config: &GenerationConfig) {
        let length = weight(self.generated(1), config);
        for next in ending {
            let beam = self.extend(next);
            self.finished.push(Beam {
                score: beam.score / length,
                ..beam
            });
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(config.num_beams);
    }

    /// Whether a running beam may still beat the worst finished one.
    fn can_improve(&self, config: &GenerationConfig) -> bool {
        if self.finished.len() < config.num_beams {
            return true;
        }
        let length = match config.early_stopping {
            EarlyStopping::Always => return false,
            EarlyStopping::Never if config.length_penalty > 0.0 => config.max_new_tokens,
            EarlyStopping::Never | EarlyStopping::Heuristic => self.generated(0),
        };
        let worst = self.finished[self.finished.len() - 1].score;
        self.running[0].score / weight(length, config) > worst
    }

    fn extend(&self, next: &Next) -> Beam {
        let mut tokens = self.running[next.beam].tokens.clone();
        tokens.push(next.id);
        Beam {
            tokens,
            score: next.score,
        }
    }

    /// Generated tokens of the running beams, and `more`.
    fn generated(&self, more: usize) -> usize {
        self.running.first().map_or(0, |beam| beam.tokens.len() - self.prompt) + more
    }

    /// The answer of the best finished beam, once the search is over.
    pub fn best(&self) -> Vec<u32> {
        self.finished[0].tokens[self.prompt..].to_vec()
    }
}

/// What a sum of log probabilities of `length` tokens is divided by.
fn weight(length: usize, config: &GenerationConfig) -> f32 {
    (length as f64).powf(config.length_penalty) as f32
}

#[cfg(test)]
mod tests;
