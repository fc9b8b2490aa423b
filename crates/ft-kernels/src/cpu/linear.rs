//! Linear layers: one product over all rows, no copies of the weight.
use super::flex::{contiguous, fresh, last, matrix, rows, tensor};
use super::gemm::{Mat, Par, Term, gemm};
use crate::portable::with_last;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// `x [.., in] · Wᵀ + scale · t [.., r] · Bᵀ`, W `[out, in]`, B `[out, r]`.
pub(crate) fn forward(x: FlexTensor, w: &FlexTensor, low: Option<(&FlexTensor, &FlexTensor, f32)>) -> FlexTensor {
    let x = contiguous(x);
    let shape = with_last(&x.shape(), w.shape()[0]);
    let mut terms = vec![Term::new(rows(&x), factor(w).t())];
    if let Some((t, b, scale)) = low {
        terms.push(Term::scaled(rows(t), factor(b).t(), scale));
    }
    tensor(product(&terms), shape)
}

/// Gradient to x: `dy [.., out] · W + scale · u [.., r] · A`.
pub(crate) fn input_gradient(
    dy: &FlexTensor,
    w: &FlexTensor,
    low: Option<(&FlexTensor, &FlexTensor, f32)>,
) -> FlexTensor {
    let mut terms = vec![Term::new(rows(dy), factor(w))];
    if let Some((u, a, scale)) = low {
        terms.push(Term::scaled(rows(u), factor(a), scale));
    }
    tensor(product(&terms), with_last(&dy.shape(), w.shape()[1]))
}

/// Gradient to a weight `[out, in]`: `scale · dyᵀ · x`.
pub(crate) fn weight_gradient(dy: &FlexTensor, x: &FlexTensor, scale: f32) -> FlexTensor {
    let (out, input) = (last(dy), last(x));
    // The register tiles are wider than high: a narrow x is the left factor of the transposed product.
    if input < out && input <= 64 {
        let term = Term::scaled(rows(x).t(), rows(dy), scale);
        let transposed = product(&[term]);
        let mut values = fresh(out * input);
        Mat::new(&transposed, input, out).t().widen(&mut values);
        return tensor(values, [out, input]);
    }
    tensor(product(&[Term::scaled(rows(dy).t(), rows(x), scale)]), [out, input])
}

fn factor(w: &FlexTensor) -> Mat<'_> {
    matrix(w).expect("a weight of f32, bf16 or f16")
}

fn product(terms: &[Term]) -> Vec<f32> {
    let (m, n) = (terms[0].a.rows(), terms[0].b.cols());
    let mut out = fresh(m * n);
    gemm(terms, &mut out, n, false, Par::All);
    out
}
