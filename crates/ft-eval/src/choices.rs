//! Multiple choice: which answer to a question a model finds likeliest.

use ft_data::{Sample, Tokenizer};
use ft_model::Model;

use crate::evaluation::target_nll;
use crate::{Error, Question, Result, batches, check};

/// What a model makes of a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Log-likelihood of each possible answer after the prompt, in nats.
    pub log_likelihoods: Vec<f64>,
    /// Characters of each answer.
    pub lengths: Vec<usize>,
    /// The right one.
    pub answer: usize,
}

/// Asks the model how likely it finds each answer of each question, after the prompt and a space.
///
/// Tokens are cut as lm-evaluation-harness 0.4 does: prompt and answer are tokenized together, with the special tokens that the
/// tokenizer puts in front, and what goes beyond the tokens of the prompt alone is the answer. White space at the end of a prompt belongs to
/// the answer. What is longer than the model has positions loses its beginning.
///
/// `progress` is called with the share of the work done (0 to 1) before every batch.
///
/// # Errors
/// A tokenizer that fails, ids that the vocabulary does not have, [`Error::NotFinite`].
pub fn choose(
    model: &Model,
    tokenizer: &Tokenizer,
    questions: &[Question],
    batch_size: usize,
    multiple: usize,
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<Choice>> {
    let mut samples = Vec::new();
    for question in questions {
        for choice in &question.choices {
            samples.push(sample(tokenizer, &question.prompt, choice, model.positions())?);
        }
    }
    check(model, &samples)?;
    let mut sums = vec![0.0f64; samples.len()];
    let all = batches(&samples, batch_size, multiple);
    let count = all.len() as f64;
    for (index, batch) in all.enumerate() {
        progress(index as f64 / count);
        for (row, nll) in batch.sequence_of.iter().zip(target_nll(model, &batch)) {
            sums[batch.numbers[*row as usize]] -= nll;
        }
    }
    if sums.iter().any(|sum| sum.is_nan()) {
        return Err(Error::NotFinite);
    }
    let mut sums = sums.into_iter();
    let choice = |question: &Question| Choice {
        log_likelihoods: sums.by_ref().take(question.choices.len()).collect(),
        lengths: question.choices.iter().map(|choice| choice.chars().count()).collect(),
        answer: question.answer,
    };
    Ok(questions.iter().map(choice).collect())
}

/// A prompt with an answer, of which the answer's tokens are the targets.
fn sample(tokenizer: &Tokenizer, prompt: &str, choice: &str, positions: usize) -> Result<Sample> {
    let context = prompt.trim_end();
    let given = tokenizer.encode(context, true)?.len();
    let mut ids = tokenizer.encode(&format!("{prompt} {choice}"), true)?;
    let beyond = ids.len().saturating_sub(positions);
    ids.drain(..beyond);
    Ok(Sample::answered(ids, given.saturating_sub(beyond)))
}
