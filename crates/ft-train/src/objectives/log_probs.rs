//! Log-probabilities of whole answers, sequence by sequence.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use ft_data::Batch;
use ft_model::Model;

use super::at_targets;
use super::targets::plain_hidden;

/// Sum of the log-probabilities of each sequence's target tokens in nats, `[sequences]`, from the hidden states after the final norm; with a
/// tape where the model has one.
pub fn row_log_probs(model: &Model, hidden: Tensor<3>, batch: &Batch) -> Tensor<1> {
    let (hidden, targets) = at_targets(hidden, batch);
    let nll = model.token_nll(hidden, targets); // [targets]
    let device = nll.device();
    let sequences = TensorData::new(batch.sequence_of.clone(), [batch.sequence_of.len()]);
    let sequences = Tensor::<1, Int>::from_data(sequences, &device);
    let zeros = Tensor::zeros([batch.sequences()], (&device, DType::F32));
    zeros.select_assign(0, sequences, nll.neg(), IndexingUpdateOp::Add)
}

/// [`row_log_probs`] of a model on a plain device that neither trains nor drops anything.
pub fn plain_log_probs(model: &Model, batch: &Batch) -> Tensor<1> {
    row_log_probs(model, plain_hidden(model, batch), batch)
}

/// Target tokens of each sequence, `[sequences]`.
pub fn row_targets(batch: &Batch, like: &Tensor<1>) -> Tensor<1> {
    let mut counts = vec![0.0f32; batch.sequences()];
    batch.sequence_of.iter().for_each(|of| counts[*of as usize] += 1.0);
    Tensor::from_data(TensorData::new(counts, [batch.sequences()]), &like.device())
}
