//! Greedy decoding and sampling of one batch. A row that ends leaves the batch, so the others go on without it.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::generation::{FinishReason, Generation, Token};
use crate::lm::Decoder;
use crate::penalty;
use crate::prompts::{Job, Padded};
use crate::sample::{argmax, draw};
use crate::{Error, GenerationConfig, Result};

/// A row still in the batch.
struct Row {
    /// Index of the prompt in the caller's list.
    row: usize,
    /// Prompt and answer so far.
    tokens: Vec<u32>,
    prompt: usize,
    budget: usize,
    rng: ChaCha8Rng,
}

impl Row {
    fn new(job: &Job, seed: u64) -> Self {
        // Named by the prompt's index: neither the batch nor its neighbours decide what a row draws.
        let rng = ft_data::stream(seed, &format!("sample/{}", job.row));
        Self {
            row: job.row,
            tokens: job.prompt.to_vec(),
            prompt: job.prompt.len(),
            budget: job.budget,
            rng,
        }
    }

    fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    fn push(&mut self, id: u32, config: &GenerationConfig) -> Option<FinishReason> {
        self.tokens.push(id);
        match (config.stops_at(id), self.generated().len() >= self.budget) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }

    fn finish(&self, finish_reason: FinishReason, start: Instant) -> Generation {
        Generation {
            tokens: self.generated().to_vec(),
            finish_reason,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}

/// What has come out of a batch so far.
struct Output<'a> {
    /// One per job, filled as the rows end.
    done: Vec<Option<Generation>>,
    on_token: &'a mut dyn FnMut(Token) -> ControlFlow<()>,
    flow: ControlFlow<()>,
    start: Instant,
}

impl Output<'_> {
    /// Appends a token to a row and hands it on; whether the row goes on.
    fn take(&mut self, job: usize, row: &mut Row, id: u32, config: &GenerationConfig) -> bool {
        let finish = row.push(id, config);
        if self.flow.is_continue() {
            self.flow = (self.on_token)(Token {
                row: row.row,
                id,
                finish,
            });
        }
        self.done[job] = finish.map(|reason| row.finish(reason, self.start));
        finish.is_none()
    }

    /// The results; rows that have not ended were broken off.
    fn into_results(mut self, rows: &[(usize, Row)]) -> (Vec<Generation>, ControlFlow<()>) {
        for (job, row) in rows {
            self.done[*job].get_or_insert_with(|| row.finish(FinishReason::Cancelled, self.start));
        }
        (self.done.into_iter().flatten().collect(), self.flow)
    }
}

/// Continues the prompts of one batch; the results in the order of `jobs`.
pub(crate) fn decode(
    model: &mut impl Decoder,
    jobs: &[Job],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, ControlFlow<()>)> {
    let (flow, start) = (ControlFlow::Continue(()), Instant::now());
    let mut output = Output {
        done: vec![None; jobs.len()],
        on_token,
        flow,
        start,
    };
    let mut rows: Vec<(usize, Row)> = jobs.iter().map(|job| Row::new(job, config.seed)).enumerate().collect();
    let mut logits = model.prefill(&Padded::new(jobs));
    loop {
        let ids = choose(&mut rows, logits, config)?;
        let slots = rows.iter_mut().zip(&ids).enumerate();
        let running: Vec<usize> = slots
            .filter_map(|(slot, ((job, row), &id))| output.take(*job, row, id, config).then_some(slot))
            .collect();
        if output.flow.is_break() || running.is_empty() {
            return Ok(output.into_results(&rows));
        }
        rows.retain(|(job, _)| output.done[*job].is_none());
        model.select(&running);
        logits = model.step(&running.iter().map(|&slot| ids[slot]).collect::<Vec<_>>());
    }
}

/// The next token of every row. `logits`: `[rows, vocab]`.
fn choose(rows: &mut [(usize, Row)], logits: Tensor<2>, config: &GenerationConfig) -> Result<Vec<u32>> {
    if !config.do_sample && !penalty::applies(config) {
        return greedy(rows, logits);
    }
    let [_, vocab] = logits.dims();
    let mut logits = to_host(logits);
    // A batch over a large vocabulary sorts millions of logits per step, each row for itself.
    rows.par_iter_mut()
        .zip(logits.par_chunks_exact_mut(vocab))
        .map(|((_, row), logits)| {
            penalty::penalize(logits, &row.tokens, config);
            let id = if config.do_sample {
                draw(logits, config, &mut row.rng)
            } else {
                argmax(logits)
            };
            id.ok_or_else(|| not_finite(row))
        })
        .collect()
}

/// The largest logit of every row, found on the device: a few bytes travel instead of the vocabulary.
fn greedy(rows: &[(usize, Row)], logits: Tensor<2>) -> Result<Vec<u32>> {
    let (best, ids) = logits.max_dim_with_indices(1);
    let ids: Vec<u32> = ids.into_data().iter::<i64>().map(|id| id as u32).collect();
    match to_host(best).iter().position(|best| !best.is_finite()) {
        Some(slot) => Err(not_finite(&rows[slot].1)),
        None => Ok(ids),
    }
}

fn not_finite(row: &Row) -> Error {
    Error::NotFinite {
        row: row.row,
        generated: row.generated().len(),
    }
}

/// All values of a tensor, row after row, as f32.
pub(crate) fn to_host(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().expect("the values were made f32")
}
