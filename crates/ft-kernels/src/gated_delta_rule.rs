//! The gated delta rule (Yang et al. 2024, Gated DeltaNet, arXiv:2412.06464): linear attention whose state forgets by a gate and
//! writes what it does not know yet.
//!
//! ```text
//!  Ŝ = eᵍᵗ S(t-1)      S(t) = Ŝ + βₜ kₜ (vₜ - kₜᵀ Ŝ)ᵀ      oₜ = qₜᵀ S(t)
//! ```
mod composed;
#[cfg(feature = "flex")]
mod fused;
#[cfg(all(test, feature = "flex"))]
mod tests;

use burn::tensor::{DType, Int, Tensor};

/// Added to the squares of a query or key before they are normalized.
pub(crate) const EPS: f64 = 1e-6;
/// Columns that are computed at once.
pub(crate) const CHUNK: usize = 64;

/// Heads of a gated delta rule. Each key head serves `value_heads / key_heads` value heads that stand side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeads {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
}

impl DeltaHeads {
    /// Numbers in the queries, or in the keys, of a column.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Numbers in the values of a column.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Numbers in queries, keys and values of a column.
    pub fn width(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Value heads of a key head.
    pub(crate) fn group(&self) -> usize {
        self.value_heads / self.key_heads
    }
}

/// The outputs `[b, s, value heads, value dim]` from a state of zeros.
///
/// `qkv` is `[b, s, width]`: queries, keys, values, each head by head; queries and keys are normalized to length 1 and queries divided by
/// √(key dim). `decay` (g, at most 0) and `beta` are `[b, s, value heads]`. A column i sees the columns from `first[b, i]` to its own;
/// all before it where `first` is not given.
///
/// Kept for backward: the inputs. States are computed again from chunk to chunk.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn gated_delta_rule(
    qkv: Tensor<3>,
    decay: Tensor<3>,
    beta: Tensor<3>,
    heads: DeltaHeads,
    first: Option<Tensor<2, Int>>,
) -> Tensor<4> {
    check(&qkv, &decay, &beta, heads, first.as_ref());
    #[cfg(feature = "flex")]
    if fits(&qkv, &decay, &beta) {
        return fused::outputs(qkv, decay, beta, heads, first);
    }
    composed::chunked(qkv, decay, beta, heads, first, None).0
}

/// The same from a state `[b, value heads, key dim, value dim]`, zeros where there is none, and the state behind the last column.
/// Columns before the call have negative numbers. Without gradients on the CPU, where columns are computed one by one: in the same order however many
/// there are.
pub fn gated_delta_rule_from(
    state: Option<Tensor<4>>,
    qkv: Tensor<3>,
    decay: Tensor<3>,
    beta: Tensor<3>,
    heads: DeltaHeads,
    first: Option<Tensor<2, Int>>,
) -> (Tensor<4>, Tensor<4>) {
    check(&qkv, &decay, &beta, heads, first.as_ref());
    #[cfg(feature = "flex")]
    if fits(&qkv, &decay, &beta) && state.as_ref().is_none_or(|state| state.dtype() == DType::F32) {
        return fused::continued(state, qkv, decay, beta, heads, first);
    }
    composed::chunked(qkv, decay, beta, heads, first, state)
}

#[cfg(feature = "flex")]
fn fits(qkv: &Tensor<3>, decay: &Tensor<3>, beta: &Tensor<3>) -> bool {
    crate::is_cpu(&qkv.device()) && [qkv, decay, beta].iter().all(|x| x.dtype() == DType::F32)
}

fn check(qkv: &Tensor<3>, decay: &Tensor<3>, beta: &Tensor<3>, heads: DeltaHeads, first: Option<&Tensor<2, Int>>) {
    let [b, s, width] = qkv.dims();
    let gates = [b, s, heads.value_heads];
    assert!(
        width == heads.width()
            && decay.dims() == gates
            && beta.dims() == gates
            && heads.key_heads > 0
            && heads.value_heads.is_multiple_of(heads.key_heads)
            && first.is_none_or(|first| first.dims() == [b, s]),
        "gated_delta_rule: qkv {:?}, decay {:?}, beta {:?}, first {:?} for {heads:?}",
        qkv.dims(),
        decay.dims(),
        beta.dims(),
        first.map(Tensor::dims)
    );
}
