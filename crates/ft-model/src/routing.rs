//! What routers of experts decide in a forward pass, for a loss that keeps experts equally busy.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};

thread_local! {
    /// Of the forward pass of this thread that is watched.
    static WATCHED: RefCell<Option<Vec<Routed>>> = const { RefCell::new(None) };
}

/// What the router of one layer decided.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The layer.
    pub layer: usize,
    /// Probabilities in f32, `[tokens, experts]`, with their tape.
    pub scores: Tensor<2>,
    /// How often each token goes to each expert, 0 or 1: `[tokens, experts]`.
    pub chosen: Tensor<2>,
}

/// Runs a forward pass and gives what its routers decided beside what comes of it, layer by layer.
pub fn watched<T>(forward: impl FnOnce() -> T) -> (T, Vec<Routed>) {
    WATCHED.with_borrow_mut(|watched| *watched = Some(Vec::new()));
    let result = forward();
    let routed = WATCHED.with_borrow_mut(Option::take).unwrap_or_default();
    (result, routed)
}

/// Takes note of a router's scores `[tokens, experts]` and the experts of each token, `k` of them.
pub(crate) fn note(layer: usize, scores: &Tensor<2>, experts: &[i32], k: usize) {
    WATCHED.with_borrow_mut(|watched| {
        let Some(all) = watched else { return };
        let [tokens, count] = scores.dims();
        let mut chosen = vec![0.0f32; tokens * count];
        for (at, expert) in experts.iter().enumerate() {
            chosen[at / k * count + *expert as usize] = 1.0;
        }
        let chosen = Tensor::from_data(TensorData::new(chosen, [tokens, count]), &scores.device());
        all.push(Routed {
            layer,
            scores: scores.clone(),
            chosen,
        });
    });
}
