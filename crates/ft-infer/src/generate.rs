//! The front door for a list of prompts: the engine's steps over a borrowed model, on the caller's thread.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use ft_model::{KvCache, Model};
use ft_peft::RowChoice;

use crate::engine::events::{self, Events};
use crate::engine::scheduler::Scheduler;
use crate::engine::sequence::Sequence;
use crate::engine::stats::Counters;
use crate::engine::whose::Whose;
use crate::engine::{EngineOptions, Event, Request, RequestError, Stats};
use crate::generation::{FinishReason, Generation, Token};
use crate::prompts::{self, Job, Limits};
use crate::{Error, GenerationConfig, Result, beam};

/// Tokens of prompts in a step: enough for products that are as fast as longer ones.
const PROMPT_TOKENS: usize = 512;

/// Prompts with adapters of their own.
#[derive(Clone, Copy, Debug)]
pub struct MixedRows<'a> {
    /// What `Adapters::mix` gave.
    pub rows: &'a RowChoice,
    /// For each prompt, the adapter by its index in what was mixed; `None` is the base.
    pub adapters: &'a [Option<usize>],
}

/// Continues every prompt; the results come in the order of `prompts`.
///
/// `config.batch_size` prompts are at work at once, longest first, so that what does not fit into memory fails at once; when one
/// has ended, the next one takes its place. What a row gets depends on its prompt, the seed and its index in `prompts` (which names
/// its random stream), not on those beside it, but for the rounding of sums.
///
/// `on_token` sees every token as it is chosen (with beam search: all tokens of a row when the row is done). When it breaks, rows
/// that have not ended are [`FinishReason::Cancelled`](crate::FinishReason::Cancelled).
///
/// `model` must be on a plain device; a model in training is passed as `&model.valid()`. It may hold any adapter.
///
/// # Errors
/// Settings out of range; prompts that are empty, too long or hold ids outside the vocabulary (all of them are listed);
/// logits that are not finite.
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    Ok(run(model, prompts, &Among::default(), config, on_token)?.0)
}

/// [`generate`] for the prompts at these places alone, ascending: what each gets there, for processes that divide a list among them.
///
/// # Errors
/// As [`generate`].
pub fn generate_some(
    model: &Model,
    prompts: &[Vec<u32>],
    places: &[usize],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let among = Among {
        places: Some(places),
        ..Among::default()
    };
    Ok(run(model, prompts, &among, config, on_token)?.0)
}

/// [`generate`] with an adapter for each prompt, all of them in the same steps (PEFT's `adapter_names`).
///
/// # Errors
/// As [`generate`].
///
/// # Panics
/// When `mixed` does not have an adapter, or none, for every prompt.
pub fn generate_mixed(
    model: &Model,
    prompts: &[Vec<u32>],
    mixed: MixedRows<'_>,
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    assert_eq!(mixed.adapters.len(), prompts.len(), "one choice for each prompt");
    let among = Among {
        mixed: Some(mixed),
        ..Among::default()
    };
    Ok(run(model, prompts, &among, config, on_token)?.0)
}

/// Which prompts of a list, with which adapters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Among<'a> {
    /// At these places, ascending; all by default.
    places: Option<&'a [usize]>,
    mixed: Option<MixedRows<'a>>,
}

/// A prompt at work.
struct Row {
    /// Its place in the caller's list.
    place: usize,
    events: Events,
    tokens: Vec<u32>,
    start: Instant,
    finish: Option<FinishReason>,
}

pub(crate) fn run(
    model: &Model,
    prompts: &[Vec<u32>],
    among: &Among<'_>,
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, Stats)> {
    config.validate()?;
    let limits = Limits {
        vocab: model.config().vocab_size,
        positions: model.positions(),
    };
    beam::check_width(limits.vocab, config)?;
    let mut jobs = prompts::jobs(prompts, limits, config.max_new_tokens)?;
    if let Some(places) = among.places {
        jobs.retain(|job| places.binary_search(&job.row).is_ok());
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.prompt.len()));

    let counters = Arc::new(Counters::default());
    let mut scheduler = Scheduler::new(model, sizes(model, &jobs, config), counters.clone()).lent();
    let begin = ft_kernels::row_invariant(|| model.start());
    let set_rows = |rows: &[u64]| {
        if let Some(mixed) = &among.mixed {
            let number = |row: &u64| row.checked_sub(1).map(|number| number as usize);
            mixed.rows.set(rows.iter().map(number).collect());
        }
    };
    let mut results: Vec<Option<Generation>> = vec![None; prompts.len()];
    let mut flow = ControlFlow::Continue(());
    let (mut rows, mut left): (Vec<Row>, _) = (Vec::new(), jobs.into_iter());
    while flow.is_continue() {
        for job in left.by_ref().take(config.batch_size - rows.len()) {
            rows.push(start(&job, model, among, config, &mut scheduler));
        }
        if rows.is_empty() {
            break;
        }
        scheduler.admit(|_, _| Ok(Some(begin.clone())));
        let ended = scheduler.step(model, &set_rows);
        scheduler.settle(ended);
        for row in &mut rows {
            row.hear(&mut flow, on_token)?;
        }
        for row in rows.extract_if(.., |row| row.finish.is_some()) {
            row.end(&mut results);
        }
    }
    for row in rows {
        row.end(&mut results);
    }
    left.for_each(|job| results[job.row] = Some(Generation::cancelled()));
    Ok((results.into_iter().flatten().collect(), counters.read()))
}

/// Room for as many rows as are asked for, none of which has to give its cache up.
fn sizes(model: &Model, jobs: &[Job], config: &GenerationConfig) -> EngineOptions {
    let columns = |job: &Job| model.virtual_tokens() + job.prompt.len() + job.budget;
    let longest = jobs.iter().map(columns).max().unwrap_or(0);
    let rows = config.batch_size.saturating_mul(config.num_beams);
    EngineOptions {
        sequences: config.batch_size,
        cache_positions: KvCache::room(longest).saturating_mul(rows),
        prompt_tokens: PROMPT_TOKENS,
        ..EngineOptions::default()
    }
}

/// Hands a prompt to the scheduler.
fn start(job: &Job, model: &Model, among: &Among<'_>, config: &GenerationConfig, scheduler: &mut Scheduler) -> Row {
    let config = GenerationConfig {
        max_new_tokens: job.budget,
        ..config.clone()
    };
    let request = Request {
        // Named by the prompt's place: its neighbours do not decide what a row draws.
        choice: job.row,
        ..Request::new(job.prompt.to_vec(), config)
    };
    let whose = match among.mixed.map(|mixed| mixed.adapters[job.row]) {
        None => Whose::lent(model.virtual_tokens()),
        Some(None) => Whose::default(),
        Some(Some(number)) => Whose::mixed(number),
    };
    let (sender, events) = events::channel();
    scheduler.push(Sequence::new(request, whose, sender, model.config().num_hidden_layers));
    Row {
        place: job.row,
        events,
        tokens: Vec::new(),
        start: Instant::now(),
        finish: None,
    }
}

impl Row {
    /// Takes what a step has told, and tells the caller for as long as that goes on.
    fn hear(&mut self, flow: &mut ControlFlow<()>, on_token: &mut dyn FnMut(Token) -> ControlFlow<()>) -> Result<()> {
        while let Some(event) = self.events.there() {
            match event {
                Event::Prompt(_) => {}
                Event::Token { id, finish, .. } => {
                    self.tokens.push(id);
                    if flow.is_continue() {
                        let row = self.place;
                        *flow = on_token(Token { row, id, finish });
                    }
                }
                Event::End(Ok(finish)) => self.finish = Some(finish),
                Event::End(Err(why)) => return Err(self.error(why)),
            }
        }
        Ok(())
    }

    fn error(&self, why: RequestError) -> Error {
        let row = self.place;
        match why {
            RequestError::NotFinite { generated } => Error::NotFinite { row, generated },
            why => Error::Request { row, why },
        }
    }

    /// Writes down what has come of it; one that has not ended was broken off.
    fn end(self, results: &mut [Option<Generation>]) {
        results[self.place] = Some(Generation {
            tokens: self.tokens,
            finish_reason: self.finish.unwrap_or(FinishReason::Cancelled),
            seconds: self.start.elapsed().as_secs_f64(),
        });
    }
}

#[cfg(test)]
mod tests;
