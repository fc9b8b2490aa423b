//! Changes to a row of scores that depend on the tokens so far: repetition penalty and banned n-grams.

use std::collections::HashSet;

use crate::GenerationConfig;

/// Whether [`penalize`] would change anything.
pub(crate) fn applies(config: &GenerationConfig) -> bool {
    config.repetition_penalty != 1.0 || config.no_repeat_ngram_size > 0
}

/// Applies the penalties of `config` to one row of scores (logits, or log probabilities in beam search), in the order of
/// transformers: repetition penalty (CTRL, arXiv:1909.05858, section 4.1), then n-grams. `tokens`: prompt and answer so far.
pub(crate) fn penalize(scores: &mut [f32], tokens: &[u32], config: &GenerationConfig) {
    if config.repetition_penalty != 1.0 {
        repetition(scores, tokens, config.repetition_penalty as f32);
    }
    if config.no_repeat_ngram_size > 0 {
        for id in banned(tokens, config.no_repeat_ngram_size) {
            scores[id as usize] = f32::NEG_INFINITY;
        }
    }
}

/// Divides positive scores of seen tokens, multiplies negative ones: both become less likely, once however often they occurred.
fn repetition(scores: &mut [f32], tokens: &[u32], penalty: f32) {
    for &id in tokens.iter().collect::<HashSet<_>>() {
        let score = &mut scores[id as usize];
        *score = if *score < 0.0 {
            *score * penalty
        } else {
            *score / penalty
        };
    }
}

/// The ids that would complete an n-gram already in `tokens`.
fn banned(tokens: &[u32], n: usize) -> impl Iterator<Item = u32> {
    let tail = tokens.get((tokens.len() + 1).saturating_sub(n)..).unwrap_or(&[]);
    tokens
        .windows(n)
        .filter(move |gram| gram[..n - 1] == *tail)
        .map(move |gram| gram[n - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_tokens_lose_once_however_often_they_occurred() {
        let config = GenerationConfig {
            repetition_penalty: 2.0,
            ..Default::default()
        };
        let mut scores = [4.0, -4.0, 4.0, 0.0];
        penalize(&mut scores, &[0, 0, 1], &config);
        assert_eq!(scores, [2.0, -8.0, 4.0, 0.0]);
    }

    #[test]
    fn completions_of_known_ngrams_are_banned() {
        let all = |tokens: &[u32], n| banned(tokens, n).collect::<Vec<_>>();
        assert_eq!(all(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(all(&[1, 2, 3, 1, 2, 4, 1, 2], 3), [3, 4]);
        assert_eq!(all(&[5, 6], 1), [5, 6]);
        assert_eq!(all(&[5], 3), [] as [u32; 0]);
        assert_eq!(all(&[5, 5], 2), [5]);
    }
}
