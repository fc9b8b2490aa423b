//! Everything that can go wrong in an evaluation.

use crate::metrics;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an evaluation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No metric of that name.
    #[error("there is no metric {name:?}: choose among {}", metrics::names())]
    UnknownMetric {
        /// What was asked for.
        name: String,
    },
    /// A line of a file of predictions or questions that is none.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A file without predictions.
    #[error(
        "no prediction in it; one JSON object per line is expected: {{\"prediction\": text, \"references\": [text, ..]}}"
    )]
    NoPredictions,
    /// A file without questions.
    #[error(
        "no question in it; one JSON object per line is expected: {{\"prompt\": text, \"choices\": [text, ..], \"answer\": number}}"
    )]
    NoQuestions,
    /// The tokenizer failed on a question.
    #[error("a question cannot be tokenized")]
    Tokenizer(#[from] ft_data::Error),
    /// Not one token to predict.
    #[error("the data has no token to predict: every sample is empty or without an answer")]
    NothingToPredict,
    /// Samples that the model cannot take; every one is listed.
    #[error("{}", list(.0))]
    Samples(Vec<SampleProblem>),
    /// The likelihood is not a number.
    #[error("the model's loss is not finite: the weights or the adapter hold NaN or overflow in this dtype (try f32)")]
    NotFinite,
    /// Generating answers failed.
    #[error(transparent)]
    Generate(#[from] ft_infer::Error),
}

/// Why one sample cannot be evaluated. `sample` is its index in the list that was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleProblem {
    /// More tokens than positions.
    #[error(
        "sample {sample} has {tokens} tokens, and the model has {positions} positions: set max_length to {positions} or less"
    )]
    TooLong {
        /// Index of the sample.
        sample: usize,
        /// Its length.
        tokens: usize,
        /// `max_position_embeddings` of the model.
        positions: usize,
    },
    /// An id that the embedding table does not have.
    #[error("sample {sample} holds token id {id}, and the vocabulary ends at {}: is this the model's own tokenizer?", vocab - 1)]
    OutOfVocabulary {
        /// Index of the sample.
        sample: usize,
        /// The first such id.
        id: u32,
        /// `vocab_size` of the model.
        vocab: usize,
    },
}

fn list(problems: &[SampleProblem]) -> String {
    const SHOWN: usize = 10;
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
    if problems.len() > SHOWN {
        lines.push(format!("and {} more", problems.len() - SHOWN));
    }
    lines.join("; ")
}
