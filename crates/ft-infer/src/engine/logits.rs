//! What comes out of a step, shared out among its sequences.

use burn::tensor::Tensor;

use crate::engine::sequence::Answer;

/// One entry per row that was asked for.
pub(super) enum Logits {
    /// `[rows, vocab]`.
    All(Vec<f32>),
    /// Where the largest is and what it is: a few bytes that leave the device in the place of the vocabulary.
    Largest(Vec<(u32, f32)>),
}

/// The rows of one sequence.
pub(super) enum Part<'a> {
    All(&'a mut [f32]),
    Largest(&'a [(u32, f32)]),
}

impl Logits {
    pub fn none() -> Self {
        Self::Largest(Vec::new())
    }

    pub fn all(logits: Tensor<2>) -> Self {
        Self::All(to_host(logits))
    }

    pub fn largest(logits: Tensor<2>) -> Self {
        let (best, ids) = logits.max_dim_with_indices(1);
        let ids = ids.into_data();
        let ids = ids.iter::<i64>().map(|id| id as u32);
        Self::Largest(ids.zip(to_host(best)).collect())
    }

    /// The parts of sequences that asked for so many rows each.
    pub fn parts(&mut self, rows: impl Iterator<Item = usize>, vocab: usize) -> Vec<Part<'_>> {
        match self {
            Self::All(logits) => {
                let mut rest = logits.as_mut_slice();
                let mut part = |rows: usize| {
                    let (part, behind) = std::mem::take(&mut rest).split_at_mut(rows * vocab);
                    rest = behind;
                    Part::All(part)
                };
                rows.map(&mut part).collect()
            }
            Self::Largest(best) => {
                let mut rest = best.as_slice();
                let mut part = |rows: usize| {
                    let (part, behind) = rest.split_at(rows);
                    rest = behind;
                    Part::Largest(part)
                };
                rows.map(&mut part).collect()
            }
        }
    }
}

impl<'a> Part<'a> {
    /// Row by row.
    pub fn rows(self, vocab: usize) -> Box<dyn Iterator<Item = Answer<'a>> + 'a> {
        match self {
            Part::All(logits) => Box::new(logits.chunks_exact_mut(vocab).map(Answer::Logits)),
            Part::Largest(best) => Box::new(best.iter().map(|(id, logit)| Answer::Largest(*id, *logit))),
        }
    }
}

/// All values of a tensor, row after row, as f32.
fn to_host(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().expect("the values were made f32")
}
