//! Label smoothing without another pass over the logits.

use super::cross_entropy;
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
/// and the logits themselves are needed nowhere but in the plain loss.
///
/// # Panics
/// As [`cross_entropy`].
pub fn smoothed_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    smoothing: f64,
) -> Tensor<1> {
    let nll = cross_entropy(hidden.clone(), head.clone(), targets.clone());
    if smoothing == 0.0 {
        return nll;
    }
    let wide = |x: Tensor<2>| match x.dtype() {
        burn::tensor::DType::F64 => x,
        _ => x.cast(FloatDType::F32),
    };
    let target = wide(head.clone().select(0, targets)); // [n, d]
    let mean = wide(head.mean_dim(0)); // [1, d]
    nll + (wide(hidden) * (target - mean)).sum().mul_scalar(smoothing)
}
