//! The likelihood of data under a model, batch by batch.

use burn::tensor::{Int, Tensor, TensorData};
use ft_data::{Batch, Sample, Tokenizer};
use ft_model::Model;
use ft_peft::Pass;

use crate::error::SampleProblem;
use crate::{Error, Result};

/// Sums over a data set, from which every mean follows: sums can be added, means cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Negative log-likelihood of all target tokens, in nats.
    pub nll_sum: f64,
    /// Target tokens.
    pub tokens: usize,
    /// Samples they come from.
    pub samples: usize,
}

impl Evaluation {
    /// Mean negative log-likelihood in nats per target token; NaN without tokens.
    pub fn loss(&self) -> f64 {
        self.nll_sum / self.tokens as f64
    }

    /// e to the loss: 1 is certainty, the size of the vocabulary is guessing.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// The likelihood of a text, and how long the text is in units that do not depend on the tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Of all target tokens.
    pub evaluation: Evaluation,
    /// Words of the target text, cut at white space.
    pub words: usize,
    /// Its bytes in UTF-8.
    pub bytes: usize,
}

impl Likelihood {
    /// Adds what the target tokens of `samples` spell: every run of them by itself, special tokens left out.
    pub fn new(evaluation: Evaluation, tokenizer: &Tokenizer, samples: &[Sample]) -> Self {
        let mut likelihood = Self {
            evaluation,
            ..Self::default()
        };
        for sample in samples {
            for run in sample.runs() {
                let text = tokenizer.decode(&sample.ids[run], true);
                likelihood.words += text.split_whitespace().count();
                likelihood.bytes += text.len();
            }
        }
        likelihood
    }
}

impl std::ops::AddAssign for Evaluation {
    fn add_assign(&mut self, other: Self) {
        self.nll_sum += other.nll_sum;
        self.tokens += other.tokens;
        self.samples += other.samples;
    }
}

/// Sums the negative log-likelihood of the batches' targets, exactly one term per target token.
///
/// Logits exist for a chunk of a batch's targets at a time, never for a data set or its unlearned positions. The sum is kept in f64, so
/// the result does not depend on how samples fall into batches (but for the rounding of f32 in the model itself).
///
/// `model` must be on a plain device; a model in training is passed as `&model.valid()`.
///
/// # Errors
/// [`Error::NothingToPredict`] when no batch holds a target, [`Error::NotFinite`] when the model yields NaN.
pub fn evaluate(model: &Model, batches: impl IntoIterator<Item = Batch>) -> Result<Evaluation> {
    let mut total = Evaluation::default();
    for batch in batches {
        total += evaluate_batch(model, &batch);
    }
    match (total.tokens, total.nll_sum.is_nan()) {
        (0, _) => Err(Error::NothingToPredict),
        (_, true) => Err(Error::NotFinite),
        (_, false) => Ok(total),
    }
}

/// The samples in batches of `batch_size`, longest first: little padding, and a batch that does not fit into memory fails at once.
/// Samples without a target or a label are left out. Widths are multiples of `multiple` (1 on a CPU; 64 on a GPU, which then sees few shapes).
pub fn batches(samples: &[Sample], batch_size: usize, multiple: usize) -> impl ExactSizeIterator<Item = Batch> {
    let counts = |sample: &Sample| sample.target_tokens() > 0 || sample.is_labelled();
    let mut order: Vec<usize> = (0..samples.len()).filter(|i| counts(&samples[*i])).collect();
    order.sort_by_key(|i| std::cmp::Reverse(samples[*i].width()));
    let chunks: Vec<Vec<usize>> = order.chunks(batch_size.max(1)).map(<[_]>::to_vec).collect();
    chunks.into_iter().map(move |numbers| {
        let chunk: Vec<&Sample> = numbers.iter().map(|i| &samples[*i]).collect();
        Batch::new(&chunk, 0, multiple).numbered(&numbers)
    })
}

/// Checks that the model can take every sample.
///
/// # Errors
/// [`Error::Samples`] lists every sample that is too long or holds ids outside the vocabulary.
pub fn check(model: &Model, samples: &[Sample]) -> Result<()> {
    let (positions, vocab) = (model.positions(), model.config().vocab_size);
    let problem = |(sample, Sample { ids, .. }): (usize, &Sample)| {
        if ids.len() > positions {
            return Some(SampleProblem::TooLong {
                sample,
                tokens: ids.len(),
                positions,
            });
        }
        let id = *ids.iter().find(|&&id| id as usize >= vocab)?;
        Some(SampleProblem::OutOfVocabulary { sample, id, vocab })
    };
    let problems: Vec<SampleProblem> = samples.iter().enumerate().filter_map(problem).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Samples(problems))
    }
}

fn evaluate_batch(model: &Model, batch: &Batch) -> Evaluation {
    Evaluation {
        nll_sum: target_nll(model, batch).iter().sum(),
        tokens: batch.targets.len(),
        samples: batch.sequences(),
    }
}

/// Negative log-likelihood of each target of the batch, in nats.
pub(crate) fn target_nll(model: &Model, batch: &Batch) -> Vec<f64> {
    let tokens = batch.targets.len();
    if tokens == 0 {
        return Vec::new();
    }
    let device = model.device();
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    let ids = Tensor::<2, Int>::from_data(ids, &device);
    let positions = Tensor::<1, Int>::from_data(TensorData::new(batch.positions.clone(), [tokens]), &device);
    let targets = Tensor::<1, Int>::from_data(TensorData::new(batch.targets.clone(), [tokens]), &device);
    let hidden = model.forward(ids, &model.rows(batch.layout()), None, &Pass::eval()); // [rows, width, hidden]
    let hidden = hidden.flatten::<2>(0, 1).select(0, positions); // [tokens, hidden]
    model.token_nll(hidden, targets).into_data().iter::<f64>().collect()
}
