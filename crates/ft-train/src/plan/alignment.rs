//! How much of the learned text a student and a teacher with another tokenizer cut alike.

use ft_data::Sample;
use ft_model::ModelConfig;
use serde::Serialize;

use crate::{Error, Result};

/// Samples beside themselves as their teacher reads them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alignment {
    /// Share of the target tokens that lie in spans of text which are whole tokens for the teacher too; training and held-out samples.
    pub aligned: f64,
    /// The teacher's tokens for one of the student's.
    pub teacher_tokens: f64,
    /// Rows of the teacher's vocabulary.
    pub teacher_vocabulary: usize,
}

/// Least share of the target tokens that the teacher must say something about.
const LEAST: f64 = 0.5;

impl Alignment {
    /// Of samples that a teacher can take.
    ///
    /// # Errors
    /// Texts that are too long for the teacher, tokens that it does not have, and too little text that both cut alike.
    pub(super) fn of(samples: [&[Sample]; 2], teacher: &ModelConfig) -> Result<Self> {
        let all = || samples.into_iter().flatten();
        let theirs = || all().filter_map(|sample| Some(&sample.teacher.as_ref()?.sample));
        let tokens = all().map(Sample::len).sum::<usize>().max(1);
        let targets = all().map(Sample::target_tokens).sum::<usize>().max(1);
        let alignment = Self {
            aligned: all().map(Sample::aligned_tokens).sum::<usize>() as f64 / targets as f64,
            teacher_tokens: theirs().map(Sample::len).sum::<usize>() as f64 / tokens as f64,
            teacher_vocabulary: teacher.vocab_size,
        };
        let mut wrong = Vec::new();
        let (longest, positions) = (
            theirs().map(Sample::len).max().unwrap_or(0),
            teacher.max_position_embeddings,
        );
        if longest > positions {
            wrong.push(format!(
                "objective.teacher: has {positions} positions, and reads {longest} tokens in the longest sample; set data.max_length = \
                 {positions}"
            ));
        }
        let largest = theirs().flat_map(|sample| &sample.ids).max();
        if let Some(id) = largest.filter(|id| **id as usize >= teacher.vocab_size) {
            wrong.push(format!(
                "objective.teacher: its tokenizer gives token {id}, and the model has {} tokens; the files do not belong together",
                teacher.vocab_size
            ));
        }
        if alignment.aligned < LEAST {
            wrong.push(format!(
                "objective.teacher: {:.1} % of the target tokens lie in pieces of text that both tokenizers cut out, and at least {:.0} % \
                 must; chat templates that write an answer differently and tokenizers that change letters are the usual causes. Take \
                 another teacher, or learn from its answers as text",
                100.0 * alignment.aligned,
                100.0 * LEAST
            ));
        }
        match wrong.is_empty() {
            true => Ok(alignment),
            false => Err(Error::Plan(wrong)),
        }
    }
}

impl std::fmt::Display for Alignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} % of the target tokens lie in spans that the teacher's tokenizer cuts out too (ULD); it has {:.2} tokens for one",
            100.0 * self.aligned,
            self.teacher_tokens
        )
    }
}
