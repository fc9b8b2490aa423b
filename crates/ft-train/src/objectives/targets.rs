//! The hidden states that predict something, and what is predicted from them.

use burn::tensor::{Int, Tensor, TensorData};
use ft_data::Batch;
use ft_model::Model;

/// Hidden states `[n, hidden]` of the positions that predict a target token, and those tokens `[n]`; hidden `[rows, width, hidden]`.
pub fn at_targets(hidden: Tensor<3>, batch: &Batch) -> (Tensor<2>, Tensor<1, Int>) {
    let device = hidden.device();
    let [rows, width, size] = hidden.dims();
    let list = |values: &[i32]| TensorData::new(values.to_vec(), [values.len()]);
    let positions = Tensor::<1, Int>::from_data(list(&batch.positions), &device);
    let targets = Tensor::<1, Int>::from_data(list(&batch.targets), &device);
    (hidden.reshape([rows * width, size]).select(0, positions), targets)
}

/// Sum of the negative log-likelihood in nats over the target tokens, `[1]`; see [`Model::nll_sum`] for `smoothing`. The head runs on
/// the positions that predict a target token, and on no others.
pub fn nll_sum(model: &Model, hidden: Tensor<3>, batch: &Batch, smoothing: f64) -> Tensor<1> {
    let (hidden, targets) = at_targets(hidden, batch);
    model.nll_sum(hidden, targets, smoothing)
}
