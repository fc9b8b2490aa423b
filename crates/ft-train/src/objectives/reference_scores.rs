//! What a reference says of pairs: asked at every step, or once before the first one (`precompute_ref_log_probs`).
//!
//! Asked once, it costs one forward pass over both sets when the run starts or resumes, and no memory or time afterwards. Batches are
//! then made by length and not by step, so that a resumed run finds the same bits.

use burn::tensor::{DType, Device, Tensor, TensorData};
use ft_data::{Batch, Sample};
use ft_model::Model;

use super::log_probs::plain_log_probs;
use super::{Given, Part};

/// Where the log-probabilities of the answers come from.
#[derive(Debug)]
pub(super) enum ReferenceScores {
    Live(Box<Model>),
    /// Chosen and rejected, by the numbers of the training samples and of the held-out ones.
    Computed([Vec<[f32; 2]>; 2]),
}

impl ReferenceScores {
    /// Of all samples at once; the model is dropped.
    pub fn computed(model: &Model, given: &Given<'_>) -> Self {
        Self::Computed(given.samples.map(|set| of_set(model, set)))
    }

    /// Chosen and rejected of a batch, `[2 pairs]` in turns, without a tape.
    pub fn of(&self, batch: &Batch, part: Part, device: &Device) -> Tensor<1> {
        match self {
            Self::Live(model) => plain_log_probs(model, batch),
            Self::Computed(sets) => {
                let set = &sets[part as usize];
                let values: Vec<f32> = batch.numbers.iter().flat_map(|number| set[*number]).collect();
                let device = device.clone().without_autodiff();
                let answers = values.len();
                Tensor::from_data(TensorData::new(values, [answers]), (&device, DType::F32))
            }
        }
    }
}

fn of_set(model: &Model, samples: &[Sample]) -> Vec<[f32; 2]> {
    /// Pairs in a batch, and the columns that widths are rounded up to: few shapes, little padding.
    const PAIRS: usize = 8;
    const COLUMNS: usize = 16;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|number| (samples[*number].width(), *number));
    let mut scores = vec![[0.0; 2]; samples.len()];
    for numbers in order.chunks(PAIRS) {
        let pairs: Vec<&Sample> = numbers.iter().map(|number| &samples[*number]).collect();
        let log_probs = plain_log_probs(model, &Batch::new(&pairs, 0, COLUMNS)).into_data();
        let log_probs = log_probs.try_into_vec::<f32>().expect("f32 of the reference");
        for (number, pair) in numbers.iter().zip(log_probs.chunks_exact(2)) {
            scores[*number] = [pair[0], pair[1]];
        }
    }
    scores
}
