//! InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv:1807.03748; Henderson et al. 2017, arXiv:1705.00652), as
//! sentence-transformers' `MultipleNegativesRankingLoss` has it: of all the positives in a forward pass, an anchor is nearest to its own.
//!
//! ```text
//! L = - log ( exp(s cos(a_i, p_i)) / Σ_j exp(s cos(a_i, p_j)) )      mean over the pairs; the sum is over those of the forward pass
//! ```
//!
//! Vectors are the last hidden states, pooled over the tokens of a text. The more pairs in a forward pass (`train.batch_size`), the more
//! negatives: `train.accumulation` adds none. `final/` has the folder layout of sentence-transformers, which `ft embed` reads too.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData, activation};
use ft_data::{Batch, Examples};
use ft_infer::{EmbeddingConfig, Pooling};
use ft_model::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Given, HeldOut, Loss, LossFn, Objective, ObjectiveKind, Unit, check, plain_hidden, read};
use crate::Result;
use crate::batches::{MicroBatch, StepBatch};

/// Options of InfoNCE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InfonceConfig {
    /// Factor of the cosines: one over the temperature.
    pub scale: f64,
    /// Over which tokens of a text hidden states are taken.
    pub pooling: TextPooling,
}

/// Over which tokens of a text hidden states are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextPooling {
    /// The mean over all.
    #[default]
    Mean,
    /// The first.
    Cls,
    /// The last: for decoders.
    Last,
}

impl Default for InfonceConfig {
    fn default() -> Self {
        Self {
            scale: 20.0,
            pooling: TextPooling::default(),
        }
    }
}

impl ObjectiveKind for InfonceConfig {
    fn check(&self) -> Vec<String> {
        check::positive("scale", self.scale)
    }

    fn examples(&self) -> Examples {
        Examples::Similar
    }

    fn embeds(&self) -> bool {
        true
    }

    fn write_beside(&self, folder: &Path, [max_length, width]: [usize; 2]) -> Result<()> {
        let config = EmbeddingConfig {
            pooling: match self.pooling {
                TextPooling::Mean => Pooling::Mean,
                TextPooling::Cls => Pooling::Cls,
                TextPooling::Last => Pooling::Last,
            },
            normalize: true,
            max_length: Some(max_length),
            dimension: Some(width),
            ..EmbeddingConfig::default()
        };
        Ok(config.write(folder)?)
    }

    fn build(&self, _: &Given<'_>) -> Result<Arc<dyn Objective>> {
        Ok(Arc::new(Infonce { options: *self }))
    }
}

#[derive(Debug)]
struct Infonce {
    options: InfonceConfig,
}

impl Infonce {
    /// Vectors `[sequences, hidden]` of length 1 in f32, of hidden states `[rows, width, hidden]`.
    fn vectors(&self, hidden: Tensor<3>, batch: &Batch) -> Tensor<2> {
        let hidden = hidden.flatten::<2>(0, 1);
        let (sequences, device) = (batch.sequences(), hidden.device());
        let pooled = match self.options.pooling {
            TextPooling::Mean => {
                let [cells, _] = hidden.dims();
                let mut shares = vec![0.0f32; sequences * cells];
                for (sequence, row) in shares.chunks_exact_mut(cells).enumerate() {
                    let own = batch.cells(sequence);
                    let share = 1.0 / own.len() as f32;
                    row[own].fill(share);
                }
                let shares = TensorData::new(shares, [sequences, cells]);
                let shares = Tensor::<2>::from_data(shares, (&device, DType::F32));
                shares.matmul(hidden.cast(FloatDType::F32))
            }
            TextPooling::Cls | TextPooling::Last => {
                let cell = |sequence: usize| match self.options.pooling {
                    TextPooling::Last => batch.cells(sequence).end - 1,
                    _ => batch.cells(sequence).start,
                };
                let cells: Vec<i32> = (0..sequences).map(|sequence| cell(sequence) as i32).collect();
                let cells = Tensor::<1, Int>::from_data(TensorData::new(cells, [sequences]), &device);
                hidden.select(0, cells).cast(FloatDType::F32)
            }
        };
        // torch's smallest length, squared: the slope of a root at 0 is no number.
        let length = pooled.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
        pooled / length
    }

    /// The sum over the pairs of a forward pass, `[1]`.
    fn sum(&self, hidden: Tensor<3>, batch: &Batch) -> Tensor<1> {
        let vectors = self.vectors(hidden, batch);
        let ([sequences, width], pairs) = (vectors.dims(), batch.examples());
        debug_assert_eq!(sequences, 2 * pairs, "an anchor and a positive each");
        let both = vectors.reshape([pairs, 2, width]);
        let part = |which: usize| both.clone().narrow(1, which, 1).reshape([pairs, width]);
        let scores = part(0).matmul(part(1).transpose()).mul_scalar(self.options.scale); // [anchors, positives]
        let own = Tensor::<1, Int>::arange(0..pairs as i64, &scores.device()).unsqueeze_dim::<2>(1);
        activation::log_softmax(scores, 1).gather(1, own).sum().neg()
    }
}

impl Objective for Infonce {
    fn unit(&self) -> Unit {
        Unit::Examples
    }

    fn loss<'a>(&'a self, micro: &'a MicroBatch, _: &'a StepBatch) -> LossFn<'a> {
        LossFn::new(|_, hidden| Loss {
            sum: self.sum(hidden, &micro.batch),
            figures: Vec::new(),
        })
    }

    fn held_out(&self, model: &Model, batch: &Batch) -> HeldOut {
        HeldOut {
            loss: read(self.sum(plain_hidden(model, batch), batch)),
            count: batch.examples(),
            ..HeldOut::default()
        }
    }
}
