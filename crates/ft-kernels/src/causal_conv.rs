//! A causal convolution of each channel by itself with SiLU behind it, as before linear attention (Mamba, Gated DeltaNet).
#[cfg(feature = "flex")]
mod fused;
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use burn::tensor::DType;
use burn::tensor::activation::silu;
use burn::tensor::{Int, Tensor};

/// `silu(Σⱼ weight[c, j] · x[b, i + j + 1 - taps, c])`, `[b, s, c]`: x `[b, s, c]`, weight `[c, taps]`, in the type of x.
///
/// `history` `[b, taps - 1, c]` stands before x, zeros where there is none. A column i sees columns from `first[b, i]` on (those of the history have
/// negative numbers); all of them where it is not given. Kept for backward: x and the weight, if that trains; `history` gets no gradient.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn causal_conv(
    x: Tensor<3>,
    weight: Tensor<2>,
    history: Option<Tensor<3>>,
    first: Option<Tensor<2, Int>>,
) -> Tensor<3> {
    let ([b, s, channels], [rows, taps]) = (x.dims(), weight.dims());
    assert!(
        rows == channels
            && taps > 0
            && history.as_ref().is_none_or(|h| h.dims() == [b, taps - 1, channels])
            && first.as_ref().is_none_or(|first| first.dims() == [b, s]),
        "causal_conv: x {:?}, weight {:?}, history {:?}, first {:?}",
        x.dims(),
        weight.dims(),
        history.map(|h| h.dims()),
        first.map(|f| f.dims())
    );
    let history = history.map(|history| crate::portable::as_type_of(&x, history));
    #[cfg(feature = "flex")]
    if crate::is_cpu(&x.device()) && x.dtype() == DType::F32 {
        return fused::causal_conv(x, weight, history, first);
    }
    composed(x, weight, history, first)
}

fn composed(x: Tensor<3>, weight: Tensor<2>, history: Option<Tensor<3>>, first: Option<Tensor<2, Int>>) -> Tensor<3> {
    let ([b, s, channels], [_, taps], device) = (x.dims(), weight.dims(), x.device());
    let weight = crate::portable::as_type_of(&x, weight);
    let before = history.unwrap_or_else(|| Tensor::zeros([b, taps - 1, channels], (&device, x.dtype())));
    let whole = Tensor::cat(vec![before, x.clone()], 1);
    let first = first.map(|first| first.reshape([b, s, 1]));
    let term = |tap: usize| {
        let back = (taps - 1 - tap) as i64;
        let factor = weight.clone().narrow(1, tap, 1).reshape([1, 1, channels]);
        let part = whole.clone().narrow(1, tap, s) * factor;
        match &first {
            None => part,
            Some(first) => {
                let column = Tensor::<1, Int>::arange(-back..s as i64 - back, &device).reshape([1, s, 1]);
                let seen = column.expand([b, s, 1]).greater_equal(first.clone()).float();
                part * crate::portable::as_type_of(&x, seen)
            }
        }
    };
    let sum = (1..taps).fold(term(0), |sum, tap| sum + term(tap));
    silu(sum)
}
