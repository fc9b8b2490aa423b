//! Label smoothing without another pass over the logits.

use super::cross_entropy;
use crate::{Head, linear, soft_cap};
use burn::tensor::{FloatDType, Int, Tensor};

/// [`cross_entropy`] against targets that hold `1 - smoothing` of their weight and spread the rest over the whole
/// vocabulary, as torch's `label_smoothing` does (Szegedy et al. 2016, section 7): hidden `[n, d]`, head `[vocab, d]`,
/// targets `[n]` -> `[1]`.
///
/// The mean logit of a row is the product of its hidden state with the mean row w of the head, so that
///
/// ```text
/// Σ lse - (1 - ε)·logit(target) - ε·mean logit = Σ nll + ε · Σ h · (W[target] - w)
/// ```
///
/// and the logits themselves are needed nowhere but in the plain loss. Where they are bounded this does not hold: those of all rows are
/// in memory then.
///
/// # Panics
/// As [`cross_entropy`].
pub fn smoothed_cross_entropy(
    hidden: Tensor<2>,
    head: impl Into<Head>,
    targets: Tensor<1, Int>,
    smoothing: f64,
) -> Tensor<1> {
    let head = head.into();
    let nll = cross_entropy(hidden.clone(), head.clone(), targets.clone());
    if smoothing == 0.0 {
        return nll;
    }
    let wide = |x: Tensor<2>| match x.dtype() {
        burn::tensor::DType::F64 => x,
        _ => x.cast(FloatDType::F32),
    };
    let Head { weight: head, cap } = head;
    if cap.is_some() {
        let logits = soft_cap(wide(linear(hidden.unsqueeze::<3>(), head).squeeze_dim::<2>(0)), cap); // [n, vocab]
        let target = logits.clone().gather(1, targets.unsqueeze_dim(1));
        return nll + (target - logits.mean_dim(1)).sum().mul_scalar(smoothing);
    }
    let target = wide(head.clone().select(0, targets)); // [n, d]
    let mean = wide(head.mean_dim(0)); // [1, d]
    nll + (wide(hidden) * (target - mean)).sum().mul_scalar(smoothing)
}
