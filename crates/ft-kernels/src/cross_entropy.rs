//! Language-model head and cross-entropy in one operation, in chunks of rows.
use crate::linear;
use burn::tensor::{FloatDType, Int, Tensor};

const ROWS: usize = 256;

/// Sum over the rows of the negative log likelihood in nats: hidden `[n, d]`, head `[vocab, d]`, targets `[n]` -> `[1]`.
pub fn cross_entropy(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    token_nll(hidden, head, targets).sum()
}

/// Negative log likelihood of every row in nats: hidden `[n, d]`, head `[vocab, d]`, targets `[n]` -> `[n]`.
pub fn token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = hidden.dims()[0];
    let chunks = (0..n).step_by(ROWS).map(|start| {
        let rows = ROWS.min(n - start);
        let logits = linear(hidden.clone().narrow(0, start, rows), head.clone()).cast(FloatDType::F32);
        let max = logits.clone().detach().max_dim(1);
        let logits = logits - max;
        let target = logits
            .clone()
            .gather(1, targets.clone().narrow(0, start, rows).reshape([rows, 1]));
        (logits.exp().sum_dim(1).log() - target).reshape([rows])
    });
    let chunks: Vec<Tensor<1>> = chunks.collect();
    if chunks.is_empty() {
        Tensor::zeros([0], &hidden.device())
    } else {
        Tensor::cat(chunks, 0)
    }
}
