//! Language-model head and cross-entropy in one operation that never holds the logits of all rows.
mod backward;
pub(crate) mod portable;
mod smoothing;
mod softmax;
#[cfg(all(test, feature = "flex"))]
mod tests;

use crate::Head;
#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};
pub use smoothing::smoothed_cross_entropy;

/// Sum over the rows of the negative log likelihood in nats: hidden `[n, d]`, head `[vocab, d]`, targets `[n]` -> `[1]`.
///
/// The sum of [`cross_entropy_rows`], which says what is kept.
///
/// # Panics
/// As [`cross_entropy_rows`].
pub fn cross_entropy(hidden: Tensor<2>, head: impl Into<Head>, targets: Tensor<1, Int>) -> Tensor<1> {
    cross_entropy_rows(hidden, head, targets).sum()
}

/// Negative log likelihood of every row in nats: hidden `[n, d]`, head `[vocab, d]`, targets `[n]` -> `[n]`. The logits may be bounded
/// ([`Head`]).
///
/// With a frozen head the gradient of every row to `hidden` is computed along with its loss, block by block of the
/// vocabulary, and is all that is kept: backward weighs its rows. A tracked head gets its gradient in backward from
/// recomputed logits. The losses are f32 (f64 for f64).
///
/// # Panics
/// If the shapes do not fit, or (on the CPU) a target lies outside the vocabulary.
pub fn cross_entropy_rows(hidden: Tensor<2>, head: impl Into<Head>, targets: Tensor<1, Int>) -> Tensor<1> {
    let Head { weight, cap } = head.into();
    check(&hidden, &weight, &targets);
    let [hidden, head, targets] = [hidden.into_dispatch(), weight.into_dispatch(), targets.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as CrossEntropyOps>::nll(hidden, head, targets, cap))
}

/// [`cross_entropy_rows`] for evaluation: the result is a constant, also on an autodiff device.
///
/// # Panics
/// As [`cross_entropy_rows`].
pub fn token_nll(hidden: Tensor<2>, head: impl Into<Head>, targets: Tensor<1, Int>) -> Tensor<1> {
    let Head { weight, cap } = head.into();
    check(&hidden, &weight, &targets);
    let [hidden, head, targets] = [hidden.into_dispatch(), weight.into_dispatch(), targets.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as CrossEntropyOps>::nll_rows(hidden, head, targets, cap).0)
}

pub(crate) fn check(hidden: &Tensor<2>, head: &Tensor<2>, targets: &Tensor<1, Int>) {
    let ([n, d], [vocab, head_d], [rows]) = (hidden.dims(), head.dims(), targets.dims());
    assert!(
        n == rows && d == head_d && vocab > 0,
        "cross_entropy: hidden [{n}, {d}], head [{vocab}, {head_d}], targets [{rows}]"
    );
}

/// The backend operations of [`cross_entropy_rows`] and [`token_nll`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait CrossEntropyOps: Backend {
    /// The negative log likelihoods `[n]`.
    #[fusion(default)]
    fn nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> FloatTensor<Self> {
        Self::nll_rows(hidden, head, targets, cap).0
    }

    /// Per row: negative log likelihood and logarithm of the sum of exponentials, both `[n]`.
    #[fusion(default)]
    fn nll_rows(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::rows::<Self>(hidden, head, targets, cap)
    }

    /// The negative log likelihoods `[n]` and the gradient of each to its row of `hidden`, `[n, d]`.
    #[fusion(default)]
    fn nll_rows_with_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::rows_with_gradient::<Self>(hidden, head, targets, cap)
    }

    /// Gradients of `Σ scale · nll`, scale `[n]`, to `hidden` (if asked for) and `head`, from the logarithms that
    /// `nll_rows` gave.
    #[fusion(default)]
    fn nll_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        hidden_too: bool,
        cap: Option<f64>,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        portable::gradients::<Self>([hidden, head, lse, scale], targets, hidden_too, cap)
    }

    /// Of logits `[rows, vocab]`: what [`nll_rows`](Self::nll_rows) gives.
    #[fusion(meta = |logits, _targets| (portable::per_row(logits), portable::per_row(logits)))]
    fn softmax_losses(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        softmax::losses::<Self>(logits, targets)
    }

    /// Of logits `[rows, vocab]`: the negative log likelihoods `[rows]` and the gradient of each to its row of the logits, in
    /// their type.
    #[fusion(meta = |logits, _targets| (portable::per_row(logits), logits.clone()))]
    fn softmax_losses_with_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        softmax::losses_with_gradient::<Self>(logits, targets)
    }

    /// The gradients of `scale · nll` to logits `[rows, vocab]`, in their type: lse and scale `[rows]`.
    #[fusion(dtype = logits, shape = logits)]
    fn softmax_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        scale: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        softmax::gradient::<Self>(logits, targets, lse, scale)
    }
}

#[cfg(feature = "gpu")]
impl CrossEntropyOps for burn_cubecl::CubeBackend {
    fn softmax_losses(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cube::rows_fit([&logits]) {
            true => cube::cross_entropy::losses(logits, targets),
            false => softmax::losses::<Self>(logits, targets),
        }
    }

    fn softmax_losses_with_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cube::rows_fit([&logits]) {
            true => cube::cross_entropy::losses_with_gradient(logits, targets),
            false => softmax::losses_with_gradient::<Self>(logits, targets),
        }
    }

    fn softmax_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        scale: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        match cube::rows_fit([&logits, &lse, &scale]) {
            true => cube::cross_entropy::gradient(logits, targets, lse, scale),
            false => softmax::gradient::<Self>(logits, targets, lse, scale),
        }
    }
}

#[cfg(feature = "flex")]
impl CrossEntropyOps for burn::backend::Flex {
    fn nll_rows(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !crate::linear::fused(&hidden, &head) {
            return portable::rows::<Self>(hidden, head, targets, cap);
        }
        let losses = flex::with_head(&hidden, &head, targets, cap, |head| head.losses(None));
        let n = losses.nll.len();
        (cpu::flex::tensor(losses.nll, [n]), cpu::flex::tensor(losses.lse, [n]))
    }

    fn nll_rows_with_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        cap: Option<f64>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !crate::linear::fused(&hidden, &head) {
            return portable::rows_with_gradient::<Self>(hidden, head, targets, cap);
        }
        flex::rows_with_gradient(&hidden, &head, targets, cap)
    }

    fn nll_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        hidden_too: bool,
        cap: Option<f64>,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        if !crate::linear::fused(&hidden, &head) {
            return portable::gradients::<Self>([hidden, head, lse, scale], targets, hidden_too, cap);
        }
        let scale = cpu::flex::contiguous(scale);
        flex::gradients([&hidden, &head, &lse, &scale], targets, hidden_too, cap)
    }
}

/// The fused code between tensors.
#[cfg(feature = "flex")]
pub(crate) mod flex {
    use crate::cpu::cross_entropy::Head;
    use crate::cpu::flex::{contiguous, fresh, integers, matrix, tensor, values};
    use burn::backend::TensorMetadata;
    use burn::backend::flex::FlexTensor;

    /// Runs `f` with the views of the three inputs.
    pub(crate) fn with_head<R>(
        hidden: &FlexTensor,
        head: &FlexTensor,
        targets: FlexTensor,
        cap: Option<f64>,
        f: impl FnOnce(&Head<'_>) -> R,
    ) -> R {
        let vocab = head.shape()[0];
        let index = |t: i64| usize::try_from(t).ok().filter(|&t| t < vocab);
        let targets: Vec<usize> = integers(targets)
            .into_iter()
            .map(|t| index(t).unwrap_or_else(|| panic!("cross_entropy: target {t} outside the vocabulary of {vocab}")))
            .collect();
        let hidden = contiguous(hidden.clone());
        let view = Head {
            hidden: matrix(&hidden).expect("f32"),
            weight: matrix(head).expect("checked by the caller"),
            targets: &targets,
            cap: cap.map(|cap| cap as f32),
        };
        f(&view)
    }

    pub(super) fn rows_with_gradient(
        hidden: &FlexTensor,
        head: &FlexTensor,
        targets: FlexTensor,
        cap: Option<f64>,
    ) -> (FlexTensor, FlexTensor) {
        let mut gradient = fresh(hidden.shape().num_elements());
        let losses = with_head(hidden, head, targets, cap, |head| head.losses(Some(&mut gradient)));
        let n = losses.nll.len();
        (tensor(losses.nll, [n]), tensor(gradient, hidden.shape()))
    }

    pub(super) fn gradients(
        [hidden, head, lse, scale]: [&FlexTensor; 4],
        targets: FlexTensor,
        hidden_too: bool,
        cap: Option<f64>,
    ) -> (Option<FlexTensor>, FlexTensor) {
        let mut to_hidden = hidden_too.then(|| fresh(hidden.shape().num_elements()));
        let size = head.shape().num_elements();
        // Without rows nothing would be written.
        let mut to_head = if hidden.shape()[0] == 0 {
            vec![0.0; size]
        } else {
            fresh(size)
        };
        with_head(hidden, head, targets, cap, |head| {
            head.gradients(values(lse), values(scale), to_hidden.as_deref_mut(), &mut to_head)
        });
        (
            to_hidden.map(|g| tensor(g, hidden.shape())),
            tensor(to_head, head.shape()),
        )
    }
}
