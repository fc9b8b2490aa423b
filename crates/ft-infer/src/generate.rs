//! The front door: any number of prompts, split into batches of similar length.

use std::ops::ControlFlow;

use ft_model::Model;

use crate::generation::{Generation, Token};
use crate::lm::{Cached, Decoder, MixedRows};
use crate::prompts::{self, Job};
use crate::{GenerationConfig, Result, beam, decode};

/// Continues every prompt; the results come in the order of `prompts`.
///
/// Prompts are taken in batches of `config.batch_size`, longest first, so that the padding is small and a batch that does not fit
/// into memory fails at once. What a row gets depends on its prompt, the seed and its index in `prompts` (which names its
/// random stream), not on the batch it lands in.
///
/// `on_token` sees every token as it is chosen (with beam search: all tokens of a row when the row is done). When it breaks, rows
/// that have not ended are [`FinishReason::Cancelled`](crate::FinishReason::Cancelled).
///
/// `model` must be on a plain device; a model in training is passed as `&model.valid()`.
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
    run(&mut Cached::new(model, None), prompts, config, on_token)
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
    run_some(&mut Cached::new(model, None), prompts, Some(places), config, on_token)
}

/// [`generate`] with an adapter for each prompt, all of them in the same batches (PEFT's `adapter_names`).
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
    run(&mut Cached::new(model, Some(mixed)), prompts, config, on_token)
}

pub(crate) fn run(
    model: &mut impl Decoder,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    run_some(model, prompts, None, config, on_token)
}

fn run_some(
    model: &mut impl Decoder,
    prompts: &[Vec<u32>],
    places: Option<&[usize]>,
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    config.validate()?;
    let mut jobs = prompts::jobs(prompts, model.limits(), config.max_new_tokens)?;
    if let Some(places) = places {
        jobs.retain(|job| places.binary_search(&job.row).is_ok());
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.prompt.len()));
    let mut results: Vec<Option<Generation>> = vec![None; prompts.len()];
    let mut flow = ControlFlow::Continue(());
    for batch in jobs.chunks(config.batch_size) {
        let generated = match flow {
            ControlFlow::Break(()) => batch.iter().map(|_| Generation::cancelled()).collect(),
            ControlFlow::Continue(()) => {
                let (generated, after) = continue_batch(model, batch, config, on_token)?;
                flow = after;
                generated
            }
        };
        for (job, generation) in batch.iter().zip(generated) {
            results[job.row] = Some(generation);
        }
    }
    Ok(results.into_iter().flatten().collect())
}

fn continue_batch(
    model: &mut impl Decoder,
    batch: &[Job],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<(Vec<Generation>, ControlFlow<()>)> {
    match config.num_beams {
        1 => decode::decode(model, batch, config, on_token),
        _ => beam::search(model, batch, config, on_token),
    }
}

#[cfg(test)]
mod tests;
