//! The loss that keeps experts equally busy (Switch Transformer: Fedus et al. 2021, arXiv:2101.03961, eq. 4 to 6), as transformers adds it
//! where `output_router_logits` is on:
//!
//! ```text
//! L = coefficient · E · Σ_e f_e P_e      over all layers with experts and all tokens that are no padding:
//!                                        f_e  how often a token goes to expert e, P_e  the mean of its probability
//! ```
//!
//! The f have no gradient. They are known after the forward pass, so that where blocks are computed again, each segment adds its own part.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};
use ft_data::Batch;
use ft_model::Model;
use ft_model::routing::{Routed, watched};

/// The loss of one forward pass.
pub struct Balance {
    /// The coefficient, times the units of the pass.
    weight: f64,
    /// 1 for tokens, 0 for padding: `[tokens, 1]`.
    mask: Tensor<2>,
    tokens: usize,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    /// What routers decided, until it is summed up.
    routed: Vec<Routed>,
    /// How often tokens go to each expert, `[1, experts]`, over all layers; and how many layers there are.
    counts: Option<(Tensor<2>, usize)>,
}

impl Balance {
    /// Of a batch whose loss is a sum over `units`; `None` for a model whose experts need none.
    pub fn of(model: &Model, batch: &Batch, units: f64) -> Option<Self> {
        let experts = model.config().block.experts.as_ref();
        let coefficient = experts
            .map(|experts| experts.balance)
            .filter(|balance| *balance > 0.0)?;
        let mut mask = vec![0.0f32; batch.rows * batch.width];
        for sequence in 0..batch.sequences() {
            mask[batch.cells(sequence)].fill(1.0);
        }
        let mask = TensorData::new(mask, [batch.rows * batch.width, 1]);
        Some(Self {
            weight: coefficient * units,
            mask: Tensor::from_data(mask, &model.device().without_autodiff()),
            tokens: batch.tokens(),
            seen: RefCell::default(),
        })
    }

    /// A piece of a forward pass; after the whole one, its own part of the loss, `[1]`.
    pub fn watch<T>(&self, forward: impl FnOnce() -> T) -> (T, Option<Tensor<1>>) {
        let (result, routed) = watched(forward);
        let mut seen = self.seen.borrow_mut();
        match &seen.counts {
            Some(counts) => (result, self.part(&routed, counts)),
            None => {
                seen.routed.extend(routed);
                (result, None)
            }
        }
    }

    /// The loss of the whole forward pass, `[1]`.
    pub fn whole(&self) -> Option<Tensor<1>> {
        let mut seen = self.seen.borrow_mut();
        let routed = std::mem::take(&mut seen.routed);
        let count = |routed: &Routed| (routed.chosen.clone().without_autodiff() * self.mask.clone()).sum_dim(0);
        let sum = routed.iter().map(count).reduce(|a, b| a + b)?;
        let counts = (sum, routed.len());
        let loss = self.part(&routed, &counts);
        seen.counts = Some(counts);
        loss
    }

    fn part(&self, routed: &[Routed], (counts, layers): &(Tensor<2>, usize)) -> Option<Tensor<1>> {
        let on = |plain: &Tensor<2>, like: &Tensor<2>| match like.is_autodiff() {
            true => plain.clone().autodiff(),
            false => plain.clone(),
        };
        let product = |routed: &Routed| {
            let masked = routed.scores.clone() * on(&self.mask, &routed.scores);
            (masked.sum_dim(0) * on(counts, &routed.scores)).sum()
        };
        let sum = routed.iter().map(product).reduce(|a, b| a + b)?;
        let [_, experts] = counts.dims();
        let rows = (self.tokens * layers) as f64;
        Some(sum.mul_scalar(self.weight * experts as f64 / (rows * rows)))
    }
}
