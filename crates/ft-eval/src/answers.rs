//! Generated answers beside the answers of the data.

use std::collections::HashMap;
use std::ops::ControlFlow;

use ft_data::{Sample, Tokenizer};
use ft_infer::{Generation, GenerationConfig, Token, generate};
use ft_model::Model;

use crate::{Answer, Result};

/// Lets the model answer the samples' prompts and puts the data's answers beside it: [`answers_of`] with [`generate`].
///
/// `on_token` sees every generated token; its `row` is the index of the answer.
///
/// # Errors
/// Those of [`generate`].
pub fn answers(
    model: &Model,
    tokenizer: &Tokenizer,
    samples: &[Sample],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<Answer>> {
    answers_of(tokenizer, samples, |prompts| {
        Ok(generate(model, prompts, config, on_token)?)
    })
}

/// Has every prompt of the samples answered, in one call, and puts the data's answers beside what was said.
///
/// A sample's prompt is what precedes its first target token; its answer the first run of target tokens. Samples with the same
/// prompt share one generated answer and are each other's alternatives, as multi-reference data sets mean it. Samples
/// without a prompt or an answer are left out. Special tokens are no part of the text.
///
/// # Errors
/// Those of `answer`.
pub fn answers_of<E>(
    tokenizer: &Tokenizer,
    samples: &[Sample],
    answer: impl FnOnce(&[Vec<u32>]) -> std::result::Result<Vec<Generation>, E>,
) -> std::result::Result<Vec<Answer>, E> {
    let (prompts, references): (Vec<Vec<u32>>, Vec<Vec<&[u32]>>) = grouped(samples).into_iter().unzip();
    let generations = answer(&prompts)?;
    let text = |ids: &[u32]| tokenizer.decode(ids, true);
    let answer = |(at, references): (usize, Vec<&[u32]>)| Answer {
        prompt: Some(text(&prompts[at])),
        hypothesis: text(generations[at].content()),
        references: references.into_iter().map(text).collect(),
    };
    Ok(references.into_iter().enumerate().map(answer).collect())
}

/// Every prompt once, in the order of its first sample, with the answers of all its samples.
fn grouped(samples: &[Sample]) -> Vec<(Vec<u32>, Vec<&[u32]>)> {
    let mut groups: Vec<(Vec<u32>, Vec<&[u32]>)> = Vec::new();
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    let usable = samples
        .iter()
        .filter(|sample| !sample.prompt().is_empty() && !sample.answer().is_empty());
    for sample in usable {
        let group = *known.entry(sample.prompt()).or_insert(groups.len());
        if group == groups.len() {
            groups.push((sample.prompt().to_vec(), Vec::new()));
        }
        groups[group].1.push(sample.answer());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_one_prompt_are_alternatives() {
        let sample = |ids: &[u32], prompt: usize| Sample::answered(ids.to_vec(), prompt);
        let samples = [
            sample(&[1, 2, 7], 2),
            sample(&[3, 8, 9], 1),
            sample(&[1, 2, 8, 9], 2),
            sample(&[5, 6], 2),
            sample(&[], 0),
        ];
        let groups = grouped(&samples);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0], (vec![1, 2], vec![&[7][..], &[8, 9]]));
        assert_eq!(groups[1], (vec![3], vec![&[8, 9][..]]));
    }
}
