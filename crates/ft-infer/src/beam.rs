//! Beam search as transformers does it: `num_beams` running hypotheses per prompt, finished ones ranked by
//! log probability / length ^ `length_penalty`.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::{FloatDType, Tensor, activation::log_softmax};

use crate::config::EarlyStopping;
use crate::decode::to_host;
use crate::generation::{FinishReason, Generation, Token};
use crate::lm::Decoder;
use crate::penalty;
use crate::prompts::{Job, Padded};
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
struct Search<'a> {
    config: &'a GenerationConfig,
    job: Job<'a>,
    /// Best first.
    running: Vec<Beam>,
    /// At most `num_beams`, best first; scores are divided by the length.
    finished: Vec<Beam>,
}

/// Continues the prompts of one batch; the results in the order of `jobs`.
pub(crate) fn search(
    model: &mut impl Decoder,
    jobs: &[Job],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, ControlFlow<()>)> {
    let start = Instant::now();
    check_width(model.limits().vocab, config)?;
    let mut done: Vec<Option<Generation>> = vec![None; jobs.len()];
    let mut flow = ControlFlow::Continue(());
    let mut searches: Vec<(usize, Search)> = jobs.iter().map(|job| Search::new(*job, config)).enumerate().collect();
    let mut rows_per_search = 1;
    let mut logits = model.prefill(&Padded::new(jobs));
    while !searches.is_empty() && flow.is_continue() {
        let scores = log_probabilities(logits, rows_per_search, config.num_beams);
        let per_search = scores.len() / searches.len();
        let mut rows = Vec::new();
        for (slot, ((job, search), scores)) in searches.iter_mut().zip(scores.chunks(per_search)).enumerate() {
            match search.advance(scores)? {
                // After the prompts all beams of a search stem from its one row.
                Some(parents) => rows.extend(
                    parents
                        .iter()
                        .map(|beam| slot * rows_per_search + beam % rows_per_search),
                ),
                None => {
                    let generation = search.best(start);
                    flow = if flow.is_continue() {
                        announce(jobs[*job].row, &generation, on_token)
                    } else {
                        flow
                    };
                    done[*job] = Some(generation);
                }
            }
        }
        searches.retain(|(job, _)| done[*job].is_none());
        if searches.is_empty() {
            break;
        }
        model.select(&rows);
        rows_per_search = config.num_beams;
        logits = model.step(
            &searches
                .iter()
                .flat_map(|(_, search)| search.last_tokens())
                .collect::<Vec<_>>(),
        );
    }
    let done = done
        .into_iter()
        .map(|generation| generation.unwrap_or_else(Generation::cancelled));
    Ok((done.collect(), flow))
}

/// The step considers (stop tokens + 1) * `num_beams` continuations, which must exist.
fn check_width(vocab: usize, config: &GenerationConfig) -> Result<()> {
    if candidates(config) <= config.num_beams * vocab {
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
    (stops + 1).max(2) * config.num_beams
}

/// Log probabilities `[searches * beams * vocab]`, each row of `logits` repeated until a search has `beams`.
fn log_probabilities(logits: Tensor<2>, rows_per_search: usize, beams: usize) -> Vec<f32> {
    let [_, vocab] = logits.dims();
    let scores = to_host(log_softmax(logits.cast(FloatDType::F32), 1));
    scores
        .chunks_exact(vocab)
        .flat_map(|row| row.repeat(beams / rows_per_search))
        .collect()
}

/// Hands over all tokens of a finished row.
fn announce(row: usize, done: &Generation, on_token: &mut dyn FnMut(Token) -> ControlFlow<()>) -> ControlFlow<()> {
    let last = done.tokens.len() - 1;
    done.tokens.iter().enumerate().try_for_each(|(index, &id)| {
        let finish = (index == last).then_some(done.finish_reason);
        on_token(Token { row, id, finish })
    })
}

impl<'a> Search<'a> {
    fn new(job: Job<'a>, config: &'a GenerationConfig) -> Self {
        // All beams begin alike: only the first may be continued, or they would stay alike.
        let beam = |index| Beam {
            tokens: job.prompt.to_vec(),
            score: if index == 0 { 0.0 } else { NEVER },
        };
        Self {
            config,
            job,
            running: (0..config.num_beams).map(beam).collect(),
            finished: Vec::new(),
        }
    }

    /// Goes one token further. `scores`: log probabilities `[beams, vocab]`. The beams that the new running ones continue, or
    /// `None` when the search is over.
    fn advance(&mut self, scores: &[f32]) -> Result<Option<Vec<usize>>> {
        let next = self.continuations(scores)?;
        let beams = self.config.num_beams;
        // Continuations behind the first `num_beams` are there to keep the search going, not to end it.
        let ending: Vec<Next> = next[..beams].iter().copied().filter(|next| next.ends).collect();
        let running: Vec<Next> = next.iter().copied().filter(|next| !next.ends).take(beams).collect();
        self.finish(&ending);
        self.running = running.iter().map(|next| self.extend(next)).collect();
        let parents = running.iter().map(|next| next.beam).collect();
        Ok((!self.running.is_empty() && self.can_improve()).then_some(parents))
    }

    /// The likeliest continuations over all beams, best first.
    fn continuations(&self, scores: &[f32]) -> Result<Vec<Next>> {
        let vocab = scores.len() / self.running.len();
        let mut all = Vec::with_capacity(scores.len());
        for (beam, row) in scores.chunks_exact(vocab).enumerate() {
            let mut row = row.to_vec();
            penalty::penalize(&mut row, &self.running[beam].tokens, self.config);
            if row.iter().any(|score| score.is_nan()) {
                return Err(Error::NotFinite {
                    row: self.job.row,
                    generated: self.generated(0),
                });
            }
            let sum = self.running[beam].score;
            all.extend(row.iter().enumerate().map(|(id, score)| (score + sum, beam, id as u32)));
        }
        let best_first = |a: &(f32, usize, u32), b: &(f32, usize, u32)| {
            b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        };
        let keep = candidates(self.config);
        if keep < all.len() {
            all.select_nth_unstable_by(keep, best_first);
            all.truncate(keep);
        }
        all.sort_unstable_by(best_first);
        let full = self.generated(1) >= self.job.budget;
        let next = |(score, beam, id)| Next {
            beam,
            id,
            score,
            ends: full || self.config.stops_at(id),
        };
        Ok(all.into_iter().map(next).collect())
    }

    /// Ranks the beams that have just ended among the finished ones.
    fn finish(&mut self, ending: &[Next]) {
        let length = self.weight(self.generated(1));
        for next in ending {
            let beam = self.extend(next);
            self.finished.push(Beam {
                score: beam.score / length,
                ..beam
            });
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.config.num_beams);
    }

    /// Whether a running beam may still beat the worst finished one.
    fn can_improve(&self) -> bool {
        if self.finished.len() < self.config.num_beams {
            return true;
        }
        let length = match self.config.early_stopping {
            EarlyStopping::Always => return false,
            EarlyStopping::Never if self.config.length_penalty > 0.0 => self.job.budget,
            EarlyStopping::Never | EarlyStopping::Heuristic => self.generated(0),
        };
        let worst = self.finished[self.finished.len() - 1].score;
        self.running[0].score / self.weight(length) > worst
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
        self.running.first().map_or(0, |beam| beam.tokens.len()) + more - self.job.prompt.len()
    }

    /// What a sum of log probabilities of `length` tokens is divided by.
    fn weight(&self, length: usize) -> f32 {
        (length as f64).powf(self.config.length_penalty) as f32
    }

    fn last_tokens(&self) -> impl Iterator<Item = u32> {
        self.running.iter().map(|beam| beam.tokens[beam.tokens.len() - 1])
    }

    fn best(&self, start: Instant) -> Generation {
        let tokens = self.finished[0].tokens[self.job.prompt.len()..].to_vec();
        let stopped = tokens.last().is_some_and(|&id| self.config.stops_at(id));
        let finish_reason = if stopped {
            FinishReason::Stop
        } else {
            FinishReason::Length
        };
        Generation {
            tokens,
            finish_reason,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests;
