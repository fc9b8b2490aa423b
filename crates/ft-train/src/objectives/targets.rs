//! The hidden states that predict something, what is predicted from them, and what stands before it.

use burn::tensor::{Int, Tensor, TensorData};
use ft_data::Batch;
use ft_model::Model;
use ft_peft::Pass;

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

/// Hidden states after the final norm, `[rows, width, hidden]`, of a model on a plain device that neither trains nor drops anything.
pub fn plain_hidden(model: &Model, batch: &Batch) -> Tensor<3> {
    let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
    let ids = Tensor::<2, Int>::from_data(ids, &model.device());
    model.forward(ids, &model.rows(batch.layout()), None, &Pass::eval())
}

/// The tokens of each sequence before its first target, and from it on. A sequence without one is all prompt.
pub fn prompts_and_answers(batch: &Batch) -> Vec<(Vec<u32>, Vec<u32>)> {
    let halves = |sequence: usize| {
        let first = batch.sequence_of.iter().position(|of| *of as usize == sequence);
        let cells = batch.cells(sequence);
        let split = first.map_or(cells.end, |first| batch.positions[first] as usize + 1);
        let ids = |range: std::ops::Range<usize>| batch.ids[range].iter().map(|id| *id as u32).collect();
        (ids(cells.start..split), ids(split..cells.end))
    };
    (0..batch.sequences()).map(halves).collect()
}
