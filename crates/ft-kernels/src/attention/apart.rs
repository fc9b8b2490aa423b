//! Attention of sequences side by side, each with keys and values of its own.
use super::{Mask, attention, check};
#[cfg(feature = "flex")]
use crate::{cpu, row_invariant};
#[cfg(feature = "flex")]
use burn::backend::flex::FlexTensor;
#[cfg(feature = "flex")]
use burn::backend::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind};
use burn::tensor::Tensor;

/// What the queries of one sequence see.
#[derive(Debug)]
pub struct Past {
    /// `[1, t, hkv, d]`, those of the queries included.
    pub keys: Tensor<4>,
    /// The same shape.
    pub values: Tensor<4>,
    /// How many queries are its own, the last ones of its tokens.
    pub queries: usize,
    /// Which keys they see; without first columns.
    pub mask: Mask,
}

/// [`attention`] of each sequence: q `[tokens, 1, hq, d]`, the queries of one behind those of another, to the same.
///
/// On the CPU all of them are one call, with the same bits, where each has few queries, and within [`row_invariant`](crate::row_invariant()).
///
/// # Panics
/// As [`attention`]; if the sequences have other queries than there are; if a mask has first columns.
pub fn attention_apart(q: Tensor<4>, pasts: Vec<Past>, scale: f64) -> Tensor<4> {
    let [tokens, one, hq, d] = q.dims();
    let queries = pasts.iter().map(|past| past.queries).sum::<usize>();
    let plain = pasts.iter().all(|past| past.mask.first.is_none());
    assert!(
        queries == tokens && one == 1 && plain,
        "attention_apart: q {:?} [tokens, 1, hq, d] for {queries} queries",
        q.dims()
    );
    for past in &pasts {
        check([1, past.queries, hq, d], &past.keys, &past.values, &past.mask);
    }
    #[cfg(feature = "flex")]
    if let Some(out) = on_cpu(&q, &pasts, scale as f32) {
        return out;
    }
    let mut start = 0;
    let own = |past: Past| {
        let q = q.clone().narrow(0, start, past.queries).swap_dims(0, 1); // [1, queries, hq, d]
        start += past.queries;
        attention(q, past.keys, past.values, &past.mask, scale)
    };
    let mut mixed: Vec<Tensor<4>> = pasts.into_iter().map(own).collect();
    match mixed.len() {
        1 => mixed.remove(0),
        _ => Tensor::cat(mixed, 1),
    }
    .reshape([tokens, 1, hq, d])
}

/// All of them in one call, where everything is f32 on the CPU and none would be computed in another order alone.
#[cfg(feature = "flex")]
fn on_cpu(q: &Tensor<4>, pasts: &[Past], scale: f32) -> Option<Tensor<4>> {
    if !row_invariant::on() && pasts.iter().any(|past| past.queries > cpu::attention::FEW) {
        return None;
    }
    let past = |past: &Past| {
        Some(cpu::attention::Past {
            keys: flex(&past.keys)?,
            values: flex(&past.values)?,
            queries: past.queries,
            span: past.mask.span(),
        })
    };
    let pasts = pasts.iter().map(past).collect::<Option<Vec<_>>>()?;
    let out = cpu::attention::apart(flex(q)?, pasts, scale);
    Some(Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(out)),
        autodiff: DispatchAutodiffContext::Disabled,
    }))
}

/// The CPU's own tensor, of f32 and without a tape.
#[cfg(feature = "flex")]
fn flex(x: &Tensor<4>) -> Option<FlexTensor> {
    match x.clone().into_dispatch() {
        DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Float(x)),
            autodiff: DispatchAutodiffContext::Disabled,
        } => cpu::flex::all_f32([&x]).then_some(x),
        _ => None,
    }
}
