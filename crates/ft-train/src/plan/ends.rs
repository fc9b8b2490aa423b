//! Where texts begin and answers end: what would teach a model that it never stops, or a beginning that it never meets.

use std::collections::HashMap;

use ft_data::{Sample, Tokenizer, passing};
use ft_infer::GenerationConfig;
use ft_model::ModelConfig;

use super::checks::Facts;

/// The token that ends most samples' learned part, if it is one that stands for no text.
pub(super) fn stop_token(
    samples: &[Sample],
    tokenizer: &Tokenizer,
    model: &ModelConfig,
    generation: &GenerationConfig,
) -> Option<u32> {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for sample in passing(samples) {
        // The last learned token; after it may come, say, the line break of a chat template.
        if let Some(run) = sample.runs().next_back() {
            *counts.entry(sample.ids[run.end - 1]).or_default() += 1;
        }
    }
    let known = |id: &u32| {
        tokenizer.is_special(*id)
            || tokenizer.eos_ids().contains(id)
            || model.eos_token_ids.contains(id)
            || generation.eos_token_id.contains(id)
    };
    counts
        .into_iter()
        .filter(|(id, _)| known(id))
        .max_by_key(|(id, count)| (*count, *id))
        .map(|(id, _)| id)
}

/// What is to be refused unless asked for, and what a person should know.
pub(super) fn check(facts: &Facts, opinions: &mut Vec<String>, warnings: &mut Vec<String>) {
    let (data, tokenizer) = (facts.data, facts.tokenizer);
    if data.has_answers() && data.stop_token.is_none() {
        opinions.push(
            "data: no sample teaches a token that ends the answer, so the model would never stop; does the chat template \
             close the assistant's turn, and does data.max_length leave room for it?"
                .into(),
        );
    }
    if data.train.double_bos > 0 {
        opinions.push(format!(
            "data: {} training samples begin with two BOS tokens; take the one in the text or in the chat template out",
            data.train.double_bos
        ));
    }
    let stops = |id: &u32| facts.generation.eos_token_id.contains(id);
    let unheeded = data.train.unheeded_stops.iter().filter(|token| {
        let id = tokenizer.token_to_id(token);
        id.is_some_and(|id| !stops(&id) && Some(id) != data.stop_token)
    });
    let unheeded: Vec<&str> = unheeded.map(String::as_str).collect();
    if data.stop_token.is_some() && !unheeded.is_empty() {
        opinions.push(format!(
            "data: some answers end in {}, at which generation does not stop; end all answers alike, or name the token under eos_token_id in the \
             model's generation_config.json",
            unheeded.join(", ")
        ));
    }
    warnings.extend(data.train.warnings());
    warnings.extend(data.cached.iter().filter_map(ft_data::Cached::warning));
    if let Some(stop) = data.stop_token.filter(|id| !stops(id)) {
        let name = tokenizer.id_to_token(stop).unwrap_or_default();
        warnings.push(format!(
            "final/generation_config.json will list \"{name}\" ({stop}) as a stop token"
        ));
    }
}
